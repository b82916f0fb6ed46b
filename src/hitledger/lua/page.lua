#!lua flags=no-writes
-- Read rows of a sorted set from just behind a place, in the order of ZREVRANGE (most requested
-- first, equal counts by URL downwards) or in the opposite one. Called by hitledger.report.source.
--
-- KEYS  1 the set
-- ARGV  1 rows wanted   2 hits and 3 URL of the place   4 "down" or "up"
-- Returns {rank of the first row in that order, {URL, hits, URL, hits, ...}}.
-- The place need not be taken any more. It costs two look-ups of a rank and a binary search
-- among the equal counts, about 20 look-ups for a million of them, whatever the depth.

local key, wanted, hits, url = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local down = ARGV[4] == 'down'
local range = down and 'ZREVRANGE' or 'ZRANGE'

-- Sorted sets order by bytes. Lua's own `<` asks the server's locale, which may think otherwise.
-- Returns whether another URL is behind the place, and how many bytes the two begin with alike.
local function is_behind(other, alike)
  local most = math.min(#other, #url)
  while alike < most and other:byte(alike + 1) == url:byte(alike + 1) do
    alike = alike + 1
  end
  local x, y = other:byte(alike + 1) or -1, url:byte(alike + 1) or -1
  if down then
    return x < y, alike
  end
  return x > y, alike
end

local low
if down then
  low = redis.call('ZCOUNT', key, '(' .. hits, '+inf')
else
  low = redis.call('ZCOUNT', key, '-inf', '(' .. hits)
end
local high = low + redis.call('ZCOUNT', key, hits, hits)
-- The first rank in [low, high) that is behind the place. What the place has in common with the
-- URLs around it, it has with all between them.
local before, after = 0, 0
while low < high do
  local middle = math.floor((low + high) / 2)
  local behind, alike = is_behind(redis.call(range, key, middle, middle)[1], math.min(before, after))
  if behind then
    high, after = middle, alike
  else
    low, before = middle + 1, alike
  end
end
return {low, redis.call(range, key, low, low + wanted - 1, 'WITHSCORES')}
