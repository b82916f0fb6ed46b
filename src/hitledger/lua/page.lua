#!lua flags=no-writes
-- Read one page of a sorted set, most requested first, equal counts by URL downwards,
-- from just behind a place in that order. Called by LiveSource.
--
-- KEYS  1 the set
-- ARGV  1 entries wanted   2 hits and 3 URL of the place
-- Returns URL, hits, URL, hits, ...
-- The place need not be taken any more. It costs two rank look-ups and a binary search among
-- the equal counts, about 20 look-ups for a million of them, whatever the depth.

local key, wanted, hits, url = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]

-- Sorted sets order by bytes. Lua's own `<` asks the server's locale, which may think otherwise.
local function sorts_below(a, b)
  local shorter = math.min(#a, #b)
  for i = 1, shorter do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local low = redis.call('ZCOUNT', key, '(' .. hits, '+inf')
local high = low + redis.call('ZCOUNT', key, hits, hits)
-- The first rank in [low, high) whose URL sorts below the place's; URLs fall as ranks rise.
while low < high do
  local middle = math.floor((low + high) / 2)
  if sorts_below(redis.call('ZREVRANGE', key, middle, middle)[1], url) then
    high = middle
  else
    low = middle + 1
  end
end
return redis.call('ZREVRANGE', key, low, low + wanted - 1, 'WITHSCORES')
