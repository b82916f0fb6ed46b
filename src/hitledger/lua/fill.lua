#!lua
-- Put URLs that a shard holds already into their sections, with all their hits.
-- Called by hitledger.tree.keep.
--
-- KEYS  1 totals   2 all-time set   3 the sections' numbers of URLs   4 URLs that are in already
--       5 the set of the root's children   6... those of all sections that the URLs lie in
-- ARGV  1 ledger id   2 generation   3... URLs
-- Returns 1; 0 where the shard belongs to another ledger or is not filling these sections.
-- Twice it changes nothing: a URL that is in is passed over, from this call or from posting.

local totals, all, url_numbers, filled, section_set = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local has_key = {}
for i = 3, #KEYS do
  local kind, found = ({[3] = 'hash', [4] = 'set'})[i] or 'zset', redis.call('TYPE', KEYS[i])['ok']
  if found ~= kind and found ~= 'none' then
    error({err = 'HITLEDGER wrong type: ' .. KEYS[i] .. ' is a ' .. found .. ', expected a ' .. kind})
  end
  has_key[KEYS[i]] = true
end
local known = redis.call('HMGET', totals, 'ledger', 'sections')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] .. ' filling' then
  return 0
end

-- As in post.lua.
local MOST_SECTIONS = 8
local function path_of(url)
  local path, at = {''}, string.find(url, '/', 1, true)
  while at and at < #url and #path <= MOST_SECTIONS do
    path[#path + 1] = string.sub(url, 1, at)
    at = string.find(url, '/', at + 1, true)
  end
  return path
end

local urls, paths = {}, {}
for i = 3, #ARGV do
  local path = path_of(ARGV[i])
  for depth = 1, math.min(#path, MOST_SECTIONS) do
    if not has_key[section_set .. path[depth]] then
      error({err = 'HITLEDGER no key for a section'})
    end
  end
  urls[i - 2], paths[ARGV[i]] = ARGV[i], path
end

-- Add up first what a section's child gets from several URLs: most of the work is in the commands.
local hits, is_in = redis.call('ZMSCORE', all, unpack(urls)), redis.call('SMISMEMBER', filled, unpack(urls))
local children, fresh, put_in = {}, {}, {}
for i, url in ipairs(urls) do
  if hits[i] and is_in[i] == 0 and paths[url] then
    put_in[#put_in + 1] = url
    for depth, section in ipairs(paths[url]) do
      if depth <= MOST_SECTIONS then
        local below, child = children[section] or {}, paths[url][depth + 1] or url
        children[section] = below
        below[child] = (below[child] or 0) + tonumber(hits[i])
      end
      fresh[section] = (fresh[section] or 0) + 1
    end
    paths[url] = nil -- so that it counts once, should it be named twice
  end
end
for section, below in pairs(children) do
  for child, sum in pairs(below) do
    redis.call('ZINCRBY', section_set .. section, string.format('%.0f', sum), child)
  end
end
for section, number in pairs(fresh) do
  redis.call('HINCRBY', url_numbers, section, number)
end
if #put_in > 0 then
  redis.call('SADD', filled, unpack(put_in))
end
return 1
