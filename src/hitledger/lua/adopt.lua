#!lua
-- Make an empty shard part of a ledger; tell which ledger it belongs to.
-- Called by LedgerStore.open.
--
-- KEYS  1 totals   2 watermarks   3 all-time set
-- ARGV  1 ledger id   2 number of shards   3 the generation of sections that it keeps from now on, or ""
-- Returns the id of the ledger that the shard belongs to; "" for counts that belong to none.
-- Twice it changes nothing.

local known = redis.call('HGET', KEYS[1], 'ledger')
if known then
  if known == ARGV[1] then
    redis.call('HSETNX', KEYS[1], 'shards', ARGV[2])
  end
  return known
end
if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) > 0 then
  return ''
end
redis.call('HSET', KEYS[1], 'ledger', ARGV[1], 'shards', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'sections', ARGV[3] .. ' kept')
end
return ARGV[1]
