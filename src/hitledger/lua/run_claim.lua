#!lua
-- Give one part of a test run to one task, for good: no part is ever run twice.
-- Called by RunRecords.claim.
--
-- KEYS  1 run
-- ARGV  1 part   2 the claim: worker, claim's own token, nothing sent yet   3 now (unix seconds)
-- Returns "claimed"; "starting" (not all tasks are queued yet: ask again); "refused" (another
--       task has it, the run has ended or is being stopped, or there is no such run)
-- Twice it changes nothing, and the same claim is granted again.

local status = redis.call('HGET', KEYS[1], 'status')
if status == 'starting' then
  return 'starting'
end
if status ~= 'queued' and status ~= 'running' then
  return 'refused'
end
local part = 'part:' .. ARGV[1]
local holder = redis.call('HGET', KEYS[1], part)
if holder then
  return holder == ARGV[2] and 'claimed' or 'refused'
end
if redis.call('HEXISTS', KEYS[1], 'stop') == 1 then
  return 'refused'
end
redis.call('HSET', KEYS[1], part, ARGV[2], 'status', 'running')
redis.call('HSETNX', KEYS[1], 'started', ARGV[3])
return 'claimed'
