-- KEYS: bans (zset by their end, in us)
-- Returns: for each that is in force its name, and for how many us more.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local list = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 2, #list, 2 do list[i] = math.ceil(tonumber(list[i]) - now) end
return list
