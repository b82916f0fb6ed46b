#!lua
-- Let a test run begin, once all of its tasks are in the queue.
-- Called by RunRecords.open.
--
-- KEYS  1 run
-- ARGV  1 how long the run is kept, in seconds
-- Returns 1 where the run is there, else 0: it took too long, and its record has expired.
-- Twice it changes nothing: only a run that is starting becomes queued.

local status = redis.call('HGET', KEYS[1], 'status')
if status == 'starting' then
  redis.call('HSET', KEYS[1], 'status', 'queued')
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return status and 1 or 0
