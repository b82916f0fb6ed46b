#!lua
-- Forget the watermarks of journal files that are older than a floor, and keep their sums.
-- Called by LedgerStore.retire.
--
-- KEYS  1 totals   2 watermarks
-- ARGV  1 ledger id   2 floor: 16 hex digits, microseconds since 1970   3... journal names
-- Returns how many were forgotten; -1 where the shard belongs to another ledger.
-- From then on the shard refuses a journal born before the floor that it does not know, so a
-- file that comes back from an old disk image is not booked again. Twice it changes nothing.

local totals, watermarks, floor = KEYS[1], KEYS[2], ARGV[2]
local known = redis.call('HMGET', totals, 'ledger', 'floor')
if known[1] ~= ARGV[1] then
  return -1
end
if not known[2] or known[2] < floor then
  redis.call('HSET', totals, 'floor', floor)
end
local forgotten = 0
for i = 3, #ARGV do
  local mark = redis.call('HGET', watermarks, ARGV[i])
  if mark and ARGV[i] < floor then
    local hits, lost, damaged = string.match(mark, '^%d+ (%d+) %x+ (%d+) (%d+)$')
    if hits then
      redis.call('HINCRBY', totals, 'retired', hits)
      redis.call('HINCRBY', totals, 'retired_lost', lost)
      redis.call('HINCRBY', totals, 'retired_damaged', damaged)
      redis.call('HDEL', watermarks, ARGV[i])
      forgotten = forgotten + 1
    end
  end
end
return forgotten
