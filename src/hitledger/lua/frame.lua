#!lua flags=no-writes
-- Read what stands beside the rows of a page: totals, numbers of URLs, watermarks, single counts.
-- Called by hitledger.report.pending, in one transaction with the rows.
--
-- KEYS  four a shard: totals and set of the period, watermarks, all-time set
-- ARGV  1 number of fields of the totals, then their names
--       then the number of journals, and their names
--       then for each shard the number of its URLs that are asked for, and these URLs
-- Returns for each shard {values of the fields, number of URLs in the set, watermarks, hits of the
--       URLs in the set, number of URLs of all time}; what is not there is nil. Where a shard has no
--       URLs that are asked for, the last is 0.
-- One call for all shards: a command each costs a client more than it costs the server.

local at = 0
local function names()
  at = at + 1
  local first = at + 1
  at = at + tonumber(ARGV[at])
  return {unpack(ARGV, first, at)}
end

local fields, journals, found = names(), names(), {}
for i = 1, #KEYS, 4 do
  local urls = names()
  local marks, hits, all_urls = {}, {}, 0
  if #journals > 0 then
    marks = redis.call('HMGET', KEYS[i + 2], unpack(journals))
  end
  if #urls > 0 then
    hits = redis.call('ZMSCORE', KEYS[i + 1], unpack(urls))
    all_urls = redis.call('ZCARD', KEYS[i + 3])
  end
  found[#found + 1] = {
    redis.call('HMGET', KEYS[i], unpack(fields)), redis.call('ZCARD', KEYS[i + 1]), marks, hits, all_urls,
  }
end
return found
