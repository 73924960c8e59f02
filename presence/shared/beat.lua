-- Says that a server is alive on one topic, and how the topic stands.
-- KEYS: servers, the server's own entries, version
-- ARGV: server, lease in ms, TTL of the version in ms, how many entries
--       the server has here if nothing was lost; if something was, it is not said alive:
--       who reads the topic would take what is left for all there is
-- Returns: version as text, the number of the server's entries, then of each live server
-- its name and the rest of its lease in ms.
local servers, own, version = KEYS[1], KEYS[2], KEYS[3]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', servers, '-inf', now)
local held = redis.call('HLEN', own)
if held > 0 and held == tonumber(ARGV[4]) then
  redis.call('ZADD', servers, now + tonumber(ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', own, ARGV[2])
end
redis.call('PEXPIRE', servers, ARGV[3])
redis.call('PEXPIRE', version, ARGV[3])
local answer = {redis.call('GET', version) or '0', held}
local live = redis.call('ZRANGE', servers, 0, -1, 'WITHSCORES')
for i = 1, #live, 2 do
  answer[#answer + 1] = live[i]
  answer[#answer + 1] = math.floor(tonumber(live[i + 1]) - now)
end
return answer
