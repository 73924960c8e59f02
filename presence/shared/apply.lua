-- Changes one server's entries on one topic, all of it or nothing, and tells everybody.
-- KEYS: servers (zset by the end of their lease), the server's own entries (hash), version
-- ARGV: server, lease in ms, TTL of the version in ms, channel, prefix of all servers' hashes,
--       whole (1: what is given is all the server has), how many entries the server has
--       here if nothing was lost, the number of other servers that should have entries
--       here, for each its name and how many, then for each change: key, value, max
-- Values are JSON text and never empty: an empty one takes the entry away.
-- Returns: for each change 1 if it was refused by max, else 0; or nil, and nothing was
-- done, where something was lost.
-- The other servers' hashes are in the same slot: all keys share one hash tag.
local servers, own, version = KEYS[1], KEYS[2], KEYS[3]
local server, lease, channel, prefix = ARGV[1], tonumber(ARGV[2]), ARGV[4], ARGV[5]
local whole = ARGV[6] == '1'
local changes = 9 + 2 * tonumber(ARGV[8]) -- where they begin
if not whole and redis.call('HLEN', own) ~= tonumber(ARGV[7]) then return false end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- A Redis that is full refuses what needs room as long as a script has written nothing, so
-- that comes first; entries are taken away all the same.
local adds = false
for i = changes + 1, #ARGV, 3 do adds = adds or ARGV[i] ~= '' end
if adds then redis.call('ZADD', servers, now + lease, server) end
redis.call('ZREMRANGEBYSCORE', servers, '-inf', now)
redis.call('ZADD', servers, now + lease, server)

local live
local lost = 0 -- what servers have that will be back with it
local twice -- how many keys are there once more, on another server; nil: to be counted
local function room(key, max)
  if redis.call('HEXISTS', own, key) == 1 then return true end
  if not live then
    live = redis.call('ZRANGE', servers, 0, -1)
    for i = 9, changes - 1, 2 do
      if redis.call('HLEN', prefix .. ARGV[i]) == 0 then lost = lost + tonumber(ARGV[i + 1]) end
    end
  end
  local sum, most = lost, 0
  for _, s in ipairs(live) do
    if redis.call('HEXISTS', prefix .. s, key) == 1 then return true end
    local n = redis.call('HLEN', prefix .. s)
    sum, most = sum + n, math.max(most, n)
  end
  if sum < max then return true end
  if lost + most >= max then return false end
  if not twice then
    twice = 0
    local seen = {}
    for _, s in ipairs(live) do
      for _, k in ipairs(redis.call('HKEYS', prefix .. s)) do
        if seen[k] then twice = twice + 1 end
        seen[k] = true
      end
    end
  end
  return sum - twice < max
end

local answer, set, del = {}, {}, {}
if whole then redis.call('DEL', own) end
local final, order = {}, {}
for i = changes, #ARGV, 3 do
  local key, value, max = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local refused = 0
  if value == '' then
    redis.call('HDEL', own, key)
  elseif max > 0 and not room(key, max) then
    refused = 1
  else
    redis.call('HSET', own, key, value)
  end
  if refused == 0 then
    twice = nil
    if final[key] == nil then order[#order + 1] = key end
    final[key] = value
  end
  answer[#answer + 1] = refused
end
redis.call('PEXPIRE', own, lease)
redis.call('PEXPIREAT', servers, now + tonumber(ARGV[3]))
if #order == 0 and not whole then return answer end

for _, key in ipairs(order) do
  if final[key] == '' then
    del[#del + 1] = cjson.encode(key)
  else
    set[#set + 1] = cjson.encode(key) .. ':' .. final[key]
  end
end
-- A version that was lost begins at the time, so that none is ever used twice.
local v
if redis.call('EXISTS', version) == 1 then
  v = redis.call('INCR', version)
else
  v = t[1] * 1000000 + t[2]
  redis.call('SET', version, string.format('%.0f', v))
end
redis.call('PEXPIRE', version, ARGV[3])
redis.call('PUBLISH', channel, '{"s":' .. cjson.encode(server) .. ',"v":' .. string.format('%.0f', v) ..
  (whole and ',"w":true' or '') .. ',"l":' .. string.format('%.0f', lease) ..
  (#set > 0 and ',"set":{' .. table.concat(set, ',') .. '}' or '') ..
  (#del > 0 and ',"del":[' .. table.concat(del, ',') .. ']' or '') .. '}')
return answer
