#!lua
-- Begin, finish or end keeping the sections of a shard, or delete what is left of ended ones.
-- Called by hitledger.tree and LedgerStore.sweep_sections.
--
-- KEYS  1 totals   2 all-time set   3 URLs that are in sections already   4... keys to delete
-- ARGV  1 ledger id   2 "begin", "finish", "drop" or "sweep"   3 generation, of those keys too
-- Returns what the shard says of its sections then: "<generation> filling", "<generation> kept" or
--       ""; "stranger" where it belongs to another ledger.
-- Twice it changes nothing. A shard that has sections already does not begin anew; it finishes
-- once every URL is in.

local totals, action, generation = KEYS[1], ARGV[2], ARGV[3]
local known = redis.call('HMGET', totals, 'ledger', 'sections')
if known[1] ~= ARGV[1] then
  return 'stranger'
end
local state = known[2] or ''
if action == 'begin' and state == '' then
  state = generation .. ' filling'
elseif action == 'finish' and state == generation .. ' filling' then
  if redis.call('SCARD', KEYS[3]) == redis.call('ZCARD', KEYS[2]) then
    state = generation .. ' kept'
    redis.call('UNLINK', KEYS[3])
  end
elseif action == 'drop' then
  state = ''
elseif action == 'sweep' and string.match(state, '^%d*') ~= generation then
  for i = 4, #KEYS do
    redis.call('UNLINK', KEYS[i])
  end
end
if state == '' then
  redis.call('HDEL', totals, 'sections')
else
  redis.call('HSET', totals, 'sections', state)
end
return state
