-- Gives one topic as it is at one moment.
-- KEYS: servers, version
-- ARGV: prefix of the servers' hashes
-- Returns: version as text, then of each live server its name, the rest of its lease in
-- ms, and its entries: key, value, key, value …
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local answer = {redis.call('GET', KEYS[2]) or '0'}
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES')
for i = 1, #live, 2 do
  answer[#answer + 1] = live[i]
  answer[#answer + 1] = math.floor(tonumber(live[i + 1]) - now)
  answer[#answer + 1] = redis.call('HGETALL', ARGV[1] .. live[i])
end
return answer
