-- Tries every command that the other scripts run, and leaves nothing.
-- KEYS: a string, a hash and a sorted set of no use to anybody. ARGV: a channel, a word
-- Returns: for each command that may not be run, its name and the error.
local s, h, z = KEYS[1], KEYS[2], KEYS[3]
local denied = {}
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    denied[#denied + 1] = select(1, ...)
    denied[#denied + 1] = answer.err
  end
end
try('TIME')
try('SET', s, '1')
try('INCR', s)
try('GET', s)
try('EXISTS', s)
try('PEXPIRE', s, 1000)
try('HSET', h, 'key', '1')
try('HEXISTS', h, 'key')
try('HGETALL', h)
try('HKEYS', h)
try('HLEN', h)
try('HDEL', h, 'key')
try('ZADD', z, 1, 'member')
try('PEXPIREAT', z, 9999999999999)
try('ZCARD', z)
try('ZRANGE', z, 0, -1)
try('ZRANGEBYSCORE', z, 0, 1)
try('ZSCORE', z, 'member')
try('ZREM', z, 'member')
try('ZREMRANGEBYSCORE', z, 0, 1)
try('DEL', s, h, z)
try('PUBLISH', ARGV[1], ARGV[2])
return denied
