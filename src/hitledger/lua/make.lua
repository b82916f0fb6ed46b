#!lua
-- Make the ledger's meta hash where there is none; return what stands in it either way.
-- Called by LedgerStore.open.
--
-- KEYS  1 meta
-- ARGV  pairs of field and value for a new ledger
-- Returns the hash as a flat list.
-- Twice it changes nothing.

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV))
end
return redis.call('HGETALL', KEYS[1])
