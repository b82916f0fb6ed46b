#!lua
-- Start one shard's counts anew; watermarks stay, so that what was posted is not posted again.
-- Called by LedgerStore.reset.
--
-- KEYS  1 totals   2 all-time set   3... keys of periods
-- ARGV  1 ledger id   2 hits lost and 3 records damaged so far, by the shard's watermarks
--       4 a new generation of sections, where the shard keeps any; the old ones are nobody's then
-- Returns the hits that were dropped; -1 where the shard belongs to another ledger.
-- Twice it drops what came in between. `before` keeps what the watermarks have beyond the
-- counts, so that the audit's sums still agree.

local totals = KEYS[1]
local known = redis.call('HMGET', totals, 'ledger', 'requests', 'sections')
if known[1] ~= ARGV[1] then
  return '-1'
end
local requests = known[2] or '0'
for _, name in ipairs(redis.call('HKEYS', totals)) do
  if string.sub(name, 1, 1) == '(' or name == 'requests' or name == 'routed' then
    redis.call('HDEL', totals, name)
  end
end
redis.call('HINCRBY', totals, 'before', requests)
redis.call('HSET', totals, 'before_lost', ARGV[2], 'before_damaged', ARGV[3])
if known[3] then
  redis.call('HSET', totals, 'sections', ARGV[4] .. ' kept')
end
for i = 2, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return requests
