-- Decides on calls, in order; each takes all of its charges or is denied and takes none.
-- KEYS: bans (zset by their end, in us), then the buckets, each once
-- ARGV: for each call: how many names, the names; how many charges, and for each charge:
--       bucket (its place in KEYS), count, per in us, burst, cost, block in us
-- Returns: for each call three numbers: 0 allowed, 1 limited, 2 blocked, 3 banned; which
-- of the charges or names it was, from 0; for how many us at least.
-- A bucket is text: tokens, when that was so in us, blocked until in us. One that is full
-- is not there.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local anybody = redis.call('EXISTS', KEYS[1]) == 1
local buckets, changed, answer = {}, {}, {}

local function open(i, count, per, burst, block)
  local b = buckets[i]
  if b then return b end
  b = { tokens = burst, blocked = 0, count = count, per = per, burst = burst }
  local text = redis.call('GET', KEYS[i])
  if text then
    local tokens, at, blocked = string.match(text, '^(%S+) (%S+) (%S+)$')
    b.tokens = math.min(burst, tonumber(tokens) + math.max(0, now - tonumber(at)) * count / per)
    b.blocked = math.min(tonumber(blocked), now + block) -- the clock may have been put back
  end
  buckets[i] = b
  return b
end

local pos = 1
local function arg() pos = pos + 1; return ARGV[pos - 1] end
local function number() return tonumber(arg()) end

while pos <= #ARGV do
  local outcome, by, wait = 0, 0, 0
  for n = 0, number() - 1 do
    local name = arg()
    local ends = anybody and redis.call('ZSCORE', KEYS[1], name)
    if ends and tonumber(ends) - now > wait then outcome, by, wait = 3, n, tonumber(ends) - now end
  end
  local take = {}
  for n = 0, number() - 1 do
    local i, count, per, burst, cost, block = number(), number(), number(), number(), number(), number()
    local b = open(i, count, per, burst, block)
    take[#take + 1] = { i, cost }
    local is, after = 0, math.max(0, cost - b.tokens) * per / count
    if b.blocked > now then
      is, after = 2, math.max(after, b.blocked - now)
    elseif b.tokens + 1e-9 < cost then
      is = 1
      if block > 0 and outcome ~= 3 then
        b.blocked, after = now + block, math.max(after, block)
        changed[i] = true
      end
    end
    if is > 0 and outcome ~= 3 and (outcome == 0 or after > wait) then outcome, by, wait = is, n, after end
  end
  if outcome == 0 then
    for _, c in ipairs(take) do
      buckets[c[1]].tokens = math.max(0, buckets[c[1]].tokens - c[2])
      changed[c[1]] = true
    end
  end
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = outcome, by, math.ceil(wait)
end

for i in pairs(changed) do
  local b = buckets[i]
  local us = math.max((b.burst - b.tokens) * b.per / b.count, b.blocked - now)
  redis.call('SET', KEYS[i], string.format('%.17g %.0f %.0f', b.tokens, now, b.blocked), 'PX', string.format('%.0f', math.ceil(us / 1000) + 1))
end
return answer
