-- Carries out an order on limits, and tells everybody.
-- KEYS: bans (zset by their end, in us), then the buckets to fill
-- ARGV: ban, unban or reset; name; for how many us; how many bans there may be; channel;
--       what to tell
-- Returns: 1, or 0 where there is no room for another ban and nothing was done.
local op, name = ARGV[1], ARGV[2]
if op == 'ban' then
  local t = redis.call('TIME')
  local now = t[1] * 1000000 + t[2]
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  if not redis.call('ZSCORE', KEYS[1], name) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[3])), name)
elseif op == 'unban' then
  redis.call('ZREM', KEYS[1], name)
end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
