#!lua
-- Note since when a test run seems to have lost a worker.
-- Called by RunRecords.
--
-- KEYS  1 run
-- ARGV  1 now (unix seconds)
-- Returns when the suspicion arose; "" where the run is not running.
-- Twice it changes nothing: the first suspicion stands until it is dropped.

if redis.call('HGET', KEYS[1], 'status') ~= 'running' then
  return ''
end
redis.call('HSETNX', KEYS[1], 'suspected', ARGV[1])
return redis.call('HGET', KEYS[1], 'suspected')
