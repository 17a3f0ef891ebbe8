-- One rate limit for any number of processes: credits that are booked in order of asking, and come
-- back one window after their response. limit_store.py puts BURST, HEAD_SHARE, TOKEN_SLICES,
-- PRESENT and now before this.
--
-- Times are whole microseconds of this server's clock. KEYS: the state (a hash), the credits (a
-- sorted set: when each comes back), those that wait for one (a sorted set: their order), the rates
-- in use (a sorted set: when each was last named). A credit is "NAME:TOKENS". Each process has its
-- own names, so to hand one back twice, or after it has come back by itself, changes nothing.
--
-- ARGV: this server's run, whether the caller has known another one ("1"), window, life, limit on
-- requests, limit on tokens (0: none), the credit to book ("" for none), the tokens that it is
-- spaced by; then for each credit that is handed back: itself, its age, the tokens that were
-- counted (-1: as many as were booked). An age is the time since the response; -1: it was not used.
-- Returns how long until the credit may be used; a credit that is booked already keeps its instant.
-- Nothing: it rests on responses that have not come, so the caller asks again and keeps its place.

local state, credits, waiting, rates = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local run, moved = ARGV[1], ARGV[2] == "1"
local window, life = tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted, wanted_spaced = ARGV[7], ARGV[8]

local function write(number)
  return string.format("%.0f", number)
end

local function tokens_of(credit)
  return tonumber(string.match(credit, ":(%d+)$"))
end

local kept = redis.call("HMGET", state, "run", "closed", "opens", "tokens", "free", "token_free", "asked")
local opens = tonumber(kept[3] or now)
local closed = kept[2] or ""
local tokens_held = tonumber(kept[4] or 0)
local free, token_free = tonumber(kept[5] or 0), tonumber(kept[6] or 0)
local asked = tonumber(kept[7] or 0)

-- Another server than the one that kept this, or than the one that the caller knew: what it
-- forgot may still be sent (a booked credit is used within a window) and counted until its life
-- is over. Nothing more leaves before that.
if (moved or (kept[1] and kept[1] ~= run)) and closed ~= run then
  opens = math.max(opens, now + window + life)
  closed = run
end

local function leave(credit)
  redis.call("ZREM", waiting, credit)
  redis.call("HDEL", state, credit)
end

local function drop(credit)
  if redis.call("ZREM", credits, credit) == 0 then
    return false
  end
  tokens_held = tokens_held - tokens_of(credit)
  return true
end

for _, credit in ipairs(redis.call("ZRANGEBYSCORE", credits, "-inf", write(now), "LIMIT", 0, 1000)) do
  drop(credit)
end

for number = 9, #ARGV, 3 do
  local credit, age, counted = ARGV[number], tonumber(ARGV[number + 1]), ARGV[number + 2]
  leave(credit)
  if drop(credit) and age >= 0 then
    if counted ~= "-1" then
      credit = string.match(credit, "^(.*:)%d+$") .. counted
    end
    redis.call("ZADD", credits, write(now - age + window), credit)
    tokens_held = tokens_held + tokens_of(credit)
  end
end

-- The lowest of the limits that were named in one life is everyone's.
redis.call("ZREMRANGEBYSCORE", rates, "-inf", write(now - life))
redis.call("ZADD", rates, write(now), ARGV[5] .. ":" .. ARGV[6])
local limit, token_limit = math.huge, math.huge
for _, rate in ipairs(redis.call("ZRANGE", rates, 0, -1)) do
  local requests, tokens = string.match(rate, "^(%d+):(%d+)$")
  if requests ~= "0" then limit = math.min(limit, tonumber(requests)) end
  if tokens ~= "0" then token_limit = math.min(token_limit, tonumber(tokens)) end
end

local interval, token_interval = window / limit, window / token_limit
local head = 1
if limit < math.huge then head = 1 - math.min(BURST, math.floor(limit / HEAD_SHARE)) end

-- When the first window alone has brought what is needed.
local function ramp_reaches(need, most, from, each)
  if need > most then return math.huge end
  return opens + math.max(0, need - from) * each
end

-- When one more request of so many tokens fits beside all credits.
local function find_due(tokens)
  local need = redis.call("ZCARD", credits) + 1
  local tokens_needed = tokens_held + math.min(tokens, token_limit)
  local function reached()
    return math.max(
      ramp_reaches(need, limit, head, interval),
      ramp_reaches(tokens_needed, token_limit, 0, token_interval)
    )
  end
  local due, from, most = reached(), 0, 4
  while true do
    local page = redis.call("ZRANGE", credits, from, from + most - 1, "WITHSCORES")
    for number = 1, #page, 2 do
      local instant = tonumber(page[number + 1])
      if due <= instant then return due end
      need = need - 1
      tokens_needed = tokens_needed - tokens_of(page[number])
      due = math.max(instant, reached())
    end
    if #page < 2 * most then return due end
    from, most = from + most, 64
  end
end

-- Book a credit if its instant is known: within a window no response that is still to come can
-- bring one earlier. Even spacing is a bucket that leaks at the rate of the limit and holds a
-- small burst.
local function book(credit, spaced, credit_life)
  local due = math.max(find_due(tokens_of(credit)), now, free - (BURST - 1) * interval)
  local most = token_limit / TOKEN_SLICES
  spaced = math.min(spaced, most)
  if token_limit < math.huge then
    due = math.max(due, token_free - (most - spaced) * token_interval)
  end
  due = math.ceil(due)
  if due - now > window then return false end
  free = math.max(free, due) + interval
  if token_limit < math.huge then
    token_free = math.max(token_free, due) + spaced * token_interval
  end
  -- Nobody may ever hand it back: then it comes back when no server can count it any more.
  redis.call("ZADD", credits, write(due + credit_life), credit)
  tokens_held = tokens_held + tokens_of(credit)
  return true
end

if wanted ~= "" and not redis.call("ZSCORE", credits, wanted) then
  asked = asked + 1
  redis.call("ZADD", waiting, "NX", write(asked), wanted)
  redis.call("HSET", state, wanted, wanted_spaced .. ":" .. write(life) .. ":" .. write(now))
end
while true do
  local first = redis.call("ZRANGE", waiting, 0, 0)[1]
  if not first then break end
  local spaced, credit_life, seen = string.match(
    redis.call("HGET", state, first) or "0:0:0", "^(%d+):(%d+):(%d+)$"
  )
  local present = tonumber(seen) + PRESENT > now
  if present and not book(first, tonumber(spaced), tonumber(credit_life)) then break end
  leave(first)
end

redis.call("HSET", state, "run", run, "closed", closed, "opens", write(opens), "asked", write(asked),
  "tokens", write(tokens_held), "free", write(free), "token_free", write(token_free))
local last = math.ceil((math.max(now, opens) + 2 * life - now) / 1000)
for _, key in ipairs(KEYS) do
  if redis.call("PTTL", key) < last then redis.call("PEXPIRE", key, write(last)) end
end
local comes_back = redis.call("ZSCORE", credits, wanted)
return comes_back and tonumber(comes_back) - life - now
