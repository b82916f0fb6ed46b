#!lua
-- Write down how far one part of a test run is, and tell its task whether to go on.
-- Called by RunRecords.report.
--
-- KEYS  1 run   2 its URLs   3 its latencies
-- ARGV  1 part   2 the part's state, all of it   3 when it ended (unix seconds), or ""
--       4 its histogram, or ""   5 how long the run is kept, in seconds
--       then the URLs that it requested
-- Returns "go"; "stop" where the run is being stopped, has ended or is gone.
-- Twice it changes nothing: states are absolute, and a part that has ended stays as it is.

local run, urls, latencies = KEYS[1], KEYS[2], KEYS[3]
local part, ended = ARGV[1], 'ended:' .. ARGV[1]
if redis.call('HGET', run, 'status') ~= 'running' then
  return 'stop'
end
if redis.call('HEXISTS', run, ended) == 0 then
  redis.call('HSET', run, 'part:' .. part, ARGV[2])
  if ARGV[3] ~= '' then
    redis.call('HSET', run, ended, ARGV[3])
  end
  if ARGV[4] ~= '' then
    redis.call('HSET', latencies, part, ARGV[4])
    redis.call('EXPIRE', latencies, ARGV[5])
  end
  for first = 6, #ARGV, 5000 do
    redis.call('SADD', urls, unpack(ARGV, first, math.min(first + 4999, #ARGV)))
    redis.call('EXPIRE', urls, ARGV[5])
  end
end
return redis.call('HEXISTS', run, 'stop') == 1 and 'stop' or 'go'
