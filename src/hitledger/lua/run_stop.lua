#!lua
-- Have a test run end early: its tasks notice it with their next report.
-- Called by RunRecords.stop.
--
-- KEYS  1 run
-- ARGV  1 the status it will end with   2 the error, or ""
-- Returns the run's status before; "" where there is no such run.
-- Twice it changes nothing: the first reason stands.

local status = redis.call('HGET', KEYS[1], 'status') or ''
if status == 'queued' or status == 'running' then
  if redis.call('HSETNX', KEYS[1], 'stop', ARGV[1]) == 1 and ARGV[2] ~= '' then
    redis.call('HSET', KEYS[1], 'error', ARGV[2])
  end
end
return status
