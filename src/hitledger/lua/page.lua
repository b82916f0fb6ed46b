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
local function sorts_below(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local function is_behind(other)
  if down then
    return sorts_below(other, url)
  end
  return sorts_below(url, other)
end

local low
if down then
  low = redis.call('ZCOUNT', key, '(' .. hits, '+inf')
else
  low = redis.call('ZCOUNT', key, '-inf', '(' .. hits)
end
local high = low + redis.call('ZCOUNT', key, hits, hits)
-- The first rank in [low, high) that is behind the place.
while low < high do
  local middle = math.floor((low + high) / 2)
  if is_behind(redis.call(range, key, middle, middle)[1]) then
    high = middle
  else
    low = middle + 1
  end
end
return {low, redis.call(range, key, low, low + wanted - 1, 'WITHSCORES')}
