#!lua
-- Post one batch of one journal file to one shard: counts and watermark, together or not at all.
-- Called by Ledger.post.
--
-- KEYS  1 totals   2 watermarks   3 all-time set
--       then two a period, as the groups in ARGV name them: its set, its totals
-- ARGV  1 ledger id   2 journal name   3 watermark expected ("" for a new journal)
--       4 watermark to set   5 hits in the batch   6 most URLs of this shard
--       7 number of groups; then a group of hits that fell into the same periods:
--         number of periods, each one's expiry (unix seconds),
--         number of lines, each one's name and hits,
--         number of URLs,  each one's name and hits; none of them twice in a group
--       A batch with routes says so in ARGV 6: "<most URLs> <most routes>". Then KEYS has the
--       all-time routes in place 4 and the routes of each period behind its totals, and a group
--         number of routes, each one's name and hits, behind its URLs
--       For a shard that keeps sections, ARGV 6 goes on: "... g<generation> <number of keys>". The
--       last so many KEYS are then the sections' numbers of URLs, the URLs that are in sections
--       already (while that is not all of them), and the sets of children: that of the root, which
--       is the section with the empty name, and those of all sections that the URLs lie in
-- Returns {outcome, watermark found}: "posted"; "duplicate" (the batch is in already);
--       "elsewhere" (the watermark is not where the batch begins); "stranger" (the shard
--       belongs to another ledger, or to none); "old" (a journal the ledger has forgotten);
--       "sections" (the shard keeps others than the batch names; with what it says of them)
-- Twice it changes nothing: the second call finds the watermark moved and sets it to the same
--       value again, so that a WAITAOF behind it on the connection waits for a write.
-- Every check comes before the first write: a script is atomic but not transactional.

local totals, watermarks, all = KEYS[1], KEYS[2], KEYS[3]
local journal, expected, wanted = ARGV[2], ARGV[3], ARGV[4]

local function demand(key, kind)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    error({err = 'HITLEDGER wrong type: ' .. key .. ' is a ' .. found .. ', expected a ' .. kind})
  end
end

local most_urls, most_routes, generation, section_keys = string.match(ARGV[6], '^(%d+) ?(%d*) ?g?(%d*) ?(%d*)$')
local last_key = #KEYS - (tonumber(section_keys) or 0)
local has_routes = most_routes ~= ''
local head_keys, period_keys = has_routes and 4 or 3, has_routes and 3 or 2

demand(totals, 'hash')
demand(watermarks, 'hash')
demand(all, 'zset')
if has_routes then
  demand(KEYS[4], 'zset')
end
for i = head_keys + 1, last_key, period_keys do
  demand(KEYS[i], 'zset')
  demand(KEYS[i + 1], 'hash')
  if has_routes then
    demand(KEYS[i + 2], 'zset')
  end
end

local has_key = {}
for i = last_key + 1, #KEYS do
  demand(KEYS[i], ({'hash', 'set'})[i - last_key] or 'zset')
  has_key[KEYS[i]] = true
end

local known = redis.call('HMGET', totals, 'ledger', 'floor', 'requests', 'sections')
if known[1] ~= ARGV[1] then
  return {'stranger', ''}
end
local current = redis.call('HGET', watermarks, journal) or ''
if current == wanted then
  redis.call('HSET', watermarks, journal, wanted)
  return {'duplicate', current}
end
if current ~= expected then
  return {'elsewhere', current}
end
if current == '' and known[2] and journal < known[2] then
  return {'old', ''}
end
local sections = known[4] or ''
if generation ~= string.match(sections, '^%d*') then
  return {'sections', sections}
end
local is_filling = string.match(sections, 'filling')

-- Read the groups and check every number. `at` walks ARGV.
local at = 7
local function following()
  at = at + 1
  return ARGV[at]
end
local function table_of()
  local names, hits, sum = {}, {}, 0
  for i = 1, tonumber(following()) do
    local name, number = following(), tonumber(following())
    if not number or number < 1 or number ~= math.floor(number) or hits[name] then
      error({err = 'HITLEDGER bad count in batch'})
    end
    names[i], hits[name] = name, number
    sum = sum + number
  end
  return {names = names, hits = hits}, sum
end

local groups, sum, distinct = {}, 0, 0
for i = 1, tonumber(ARGV[7]) do
  local group = {expiries = {}}
  for j = 1, tonumber(following()) do
    group.expiries[j] = following()
  end
  local lines_sum, urls_sum
  group.lines, lines_sum = table_of()
  group.urls, urls_sum = table_of()
  group.sum = lines_sum + urls_sum
  group.routed = 0
  if has_routes then
    group.routes, group.routed = table_of()
    if group.routed > group.sum then
      error({err = 'HITLEDGER more routes than hits in batch'})
    end
  end
  groups[i] = group
  sum = sum + group.sum
  distinct = distinct + #group.urls.names
end
if sum ~= tonumber(ARGV[5]) or at ~= #ARGV then
  error({err = 'HITLEDGER batch does not add up'})
end
-- No score can be larger than the total, and sorted sets count exactly up to 2^53.
if tonumber(known[3] or '0') + sum >= 9007199254740992 then
  error({err = 'HITLEDGER shard is full: 2^53 hits'})
end

-- The sections that a URL lies in, shortest first, the last of them without a set: see path_of
-- in hitledger.entries, which has the same in Python.
local MOST_SECTIONS = 8
local url_numbers, filled, section_set = KEYS[last_key + 1], KEYS[last_key + 2], KEYS[last_key + 3]
local function path_of(url)
  local path, slash = {''}, string.find(url, '/', 1, true)
  while slash and slash < #url and #path <= MOST_SECTIONS do
    path[#path + 1] = string.sub(url, 1, slash)
    slash = string.find(url, '/', slash + 1, true)
  end
  return path
end
local paths = {}
for _, group in ipairs(generation == '' and {} or groups) do
  for _, name in ipairs(group.urls.names) do
    paths[name] = paths[name] or path_of(name)
    for i = 1, math.min(#paths[name], MOST_SECTIONS) do
      if not has_key[section_set .. paths[name][i]] then
        error({err = 'HITLEDGER no key for a section of the batch'})
      end
    end
  end
end

-- Past the cap, a URL that the ledger does not hold yet becomes "(overflow)".
local room = tonumber(most_urls) - redis.call('ZCARD', all)
local function move_overflow(group)
  local kept, over = {}, 0
  for _, name in ipairs(group.urls.names) do
    local is_new = not redis.call('ZSCORE', all, name)
    if is_new and room <= 0 then
      over = over + group.urls.hits[name]
    else
      kept[#kept + 1] = name
      room = room - (is_new and 1 or 0)
    end
  end
  group.urls.names = kept
  if over > 0 then
    local lines = group.lines
    if not lines.hits['(overflow)'] then
      table.insert(lines.names, '(overflow)')
    end
    lines.hits['(overflow)'] = over + (lines.hits['(overflow)'] or 0)
  end
end

-- Past their cap, all new routes are one, "(overflow)", which may stand there one beyond the cap.
local route_room = has_routes and tonumber(most_routes) - redis.call('ZCARD', KEYS[4])
local function move_route_overflow(group)
  local kept, over, hits = {}, 0, group.routes.hits
  for _, name in ipairs(group.routes.names) do
    local is_new = name ~= '(overflow)' and not redis.call('ZSCORE', KEYS[4], name)
    if name == '(overflow)' or (is_new and route_room <= 0) then
      over = over + hits[name]
    else
      kept[#kept + 1] = name
      route_room = route_room - (is_new and 1 or 0)
    end
  end
  if over > 0 then
    kept[#kept + 1] = '(overflow)'
    hits['(overflow)'] = over
  end
  group.routes.names = kept
end

-- Two commands for up to 2,500 URLs cost the server 30 % less than a ZINCRBY for each, and its
-- append-only file half. Whole numbers below 2^53 pass between Lua and the server exactly.
local BLOCK = 2500
local function add_hits(set, counted, new)
  local names, hits = counted.names, counted.hits
  for first = 1, #names, BLOCK do
    local last = math.min(first + BLOCK - 1, #names)
    local scores = redis.call('ZMSCORE', set, unpack(names, first, last))
    local words = {}
    for i = first, last do
      if new and not scores[i - first + 1] then
        new[names[i]] = true
      end
      words[#words + 1] = string.format('%.0f', tonumber(scores[i - first + 1] or 0) + hits[names[i]])
      words[#words + 1] = names[i]
    end
    redis.call('ZADD', set, unpack(words))
  end
end
local function add_totals(name, group)
  redis.call('HINCRBY', name, 'requests', string.format('%.0f', group.sum))
  for _, line in ipairs(group.lines.names) do
    redis.call('HINCRBY', name, line, string.format('%.0f', group.lines.hits[line]))
  end
  if group.routed > 0 then
    redis.call('HINCRBY', name, 'routed', string.format('%.0f', group.routed))
  end
end

-- Each section's set has its children: the sections just below it and the URLs that end there.
-- While an older ledger is brought to have sections, URLs not reached yet are left to lua/fill.lua.
local function add_sections(urls, new)
  local children, fresh = {}, {}
  for _, name in ipairs(urls.names) do
    if is_filling and new[name] then
      redis.call('SADD', filled, name)
    end
    local is_in = not is_filling or redis.call('SISMEMBER', filled, name) == 1
    local path = is_in and paths[name] or {}
    for i = 1, #path do
      local child = path[i + 1] or name
      if i <= MOST_SECTIONS then
        local below = children[path[i]] or {names = {}, hits = {}}
        children[path[i]] = below
        if not below.hits[child] then
          below.names[#below.names + 1] = child
        end
        below.hits[child] = (below.hits[child] or 0) + urls.hits[name]
      end
      if new[name] then
        fresh[path[i]] = (fresh[path[i]] or 0) + 1
      end
    end
  end
  for section, below in pairs(children) do
    add_hits(section_set .. section, below)
  end
  for section, number in pairs(fresh) do
    redis.call('HINCRBY', url_numbers, section, number)
  end
end

local key = head_keys
for _, group in ipairs(groups) do
  if room < distinct then
    move_overflow(group)
  end
  local new = {}
  add_hits(all, group.urls, new)
  add_totals(totals, group)
  if generation ~= '' then
    add_sections(group.urls, new)
  end
  if group.routed > 0 then
    move_route_overflow(group)
    add_hits(KEYS[4], group.routes)
  end
  for _, expiry in ipairs(group.expiries) do
    add_hits(KEYS[key + 1], group.urls)
    add_totals(KEYS[key + 2], group)
    if group.routed > 0 then
      add_hits(KEYS[key + 3], group.routes)
    end
    for i = key + 1, key + period_keys do
      redis.call('EXPIREAT', KEYS[i], expiry)
    end
    key = key + period_keys
  end
end
redis.call('HSET', watermarks, journal, wanted)
return {'posted', wanted}
