#!lua
-- End a test run: what its parts did becomes the run's own, and those who wait for it wake up.
-- Called by RunRecords.
--
-- KEYS  1 run   2 its URLs   3 its latencies   4 its end, a stream
--       5 how many runs ended how, and how many requests they sent
-- ARGV  1 how long the end is kept, in seconds
--       then pairs of field and value to set, the final status and the sums among them
-- Returns 1 where this call ended the run; 0 where it had ended before, or is gone.
-- Twice it changes nothing: a run ends once.

local run, urls = KEYS[1], KEYS[2]
local status = redis.call('HGET', run, 'status')
if status ~= 'queued' and status ~= 'running' then
  return 0
end
for _, field in ipairs(redis.call('HKEYS', run)) do
  if field:find('^part:') or field:find('^ended:') then
    redis.call('HDEL', run, field)
  end
end
redis.call('HSET', run, 'distinct', redis.call('SCARD', urls), unpack(ARGV, 2))
redis.call('DEL', urls, KEYS[3])
redis.call('XADD', KEYS[4], '*', 'ended', '1')
redis.call('EXPIRE', KEYS[4], ARGV[1])
local ended = redis.call('HMGET', run, 'status', 'succeeded', 'failed')
redis.call('HINCRBY', KEYS[5], ended[1], 1)
redis.call('HINCRBY', KEYS[5], 'requests:succeeded', ended[2])
redis.call('HINCRBY', KEYS[5], 'requests:failed', ended[3])
return 1
