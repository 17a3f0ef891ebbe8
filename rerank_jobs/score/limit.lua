-- One rate limit for any number of processes: credits that are booked, and come back one window
-- after their response. limit_store.py puts BURST, HEAD_SHARE, TOKEN_SLICES and now before this.
--
-- Times are whole microseconds of this server's clock. KEYS: the state (a hash), the credits (a
-- sorted set: when each comes back), the rates in use (a sorted set: when each was last named).
-- A credit is "NAME:TOKENS". Each process has its own names, so to hand one back twice, or after it
-- has come back by itself, changes nothing.
--
-- ARGV: this server's run, whether the caller has known another one ("1"), window, life, limit on
-- requests, limit on tokens (0: none), the credit to book ("" for none), the tokens that it is
-- spaced by; then for each credit that is handed back: itself, its age, the tokens that were
-- counted (-1: as many as were booked). An age is the time since the response; -1: it was not used.
-- Returns how long until the booked credit may be used. Within a window that is exact. Beyond, it
-- rests on credits whose responses have not come: book it again, which keeps a place in the queue.

local state, credits, rates = KEYS[1], KEYS[2], KEYS[3]
local run, moved = ARGV[1], ARGV[2] == "1"
local window, life = tonumber(ARGV[3]), tonumber(ARGV[4])
local booked, spaced = ARGV[7], tonumber(ARGV[8])

local function write(number)
  return string.format("%.0f", number)
end

local function tokens_of(credit)
  return tonumber(string.match(credit, ":(%d+)$"))
end

local kept = redis.call("HMGET", state, "run", "closed", "opens", "tokens", "free", "token_free")
local opens = tonumber(kept[3] or now)
local closed = kept[2] or ""
local tokens_held = tonumber(kept[4] or 0)
local free, token_free = tonumber(kept[5] or 0), tonumber(kept[6] or 0)

-- Another server than the one that kept this, or than the one that the caller knew: what it
-- forgot may still be sent (a booked credit is used within a window) and counted until its life
-- is over. Nothing more leaves before that.
if (moved or (kept[1] and kept[1] ~= run)) and closed ~= run then
  opens = math.max(opens, now + window + life)
  closed = run
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

local due = now
if booked ~= "" then
  drop(booked) -- it was booked before: that is replaced
  local interval, token_interval = window / limit, window / token_limit
  local head = 1
  if limit < math.huge then head = 1 - math.min(BURST, math.floor(limit / HEAD_SHARE)) end

  -- When the first window alone has brought what is needed.
  local function ramp_reaches(need, most, from, each)
    if need > most then return math.huge end
    return opens + math.max(0, need - from) * each
  end
  local need = redis.call("ZCARD", credits) + 1
  local tokens_needed = tokens_held + math.min(tokens_of(booked), token_limit)
  local function reached()
    return math.max(
      ramp_reaches(need, limit, head, interval),
      ramp_reaches(tokens_needed, token_limit, 0, token_interval)
    )
  end
  due = reached()
  local from, page = 0, nil
  repeat
    page = redis.call("ZRANGE", credits, from, from + 63, "WITHSCORES")
    for number = 1, #page, 2 do
      local instant = tonumber(page[number + 1])
      if due <= instant then
        page = {}
        break
      end
      need = need - 1
      tokens_needed = tokens_needed - tokens_of(page[number])
      due = math.max(instant, reached())
    end
    from = from + 64
  until #page < 128

  -- Even spacing: a bucket that leaks at the rate of the limit and holds a small burst.
  due = math.max(due, now, free - (BURST - 1) * interval)
  local token_free_after = token_free
  if token_limit < math.huge then
    local most = token_limit / TOKEN_SLICES
    spaced = math.min(spaced, most)
    due = math.max(due, token_free - (most - spaced) * token_interval)
    token_free_after = math.max(token_free, due) + spaced * token_interval
  end
  due = math.ceil(due)
  if due - now <= window then
    free, token_free = math.max(free, due) + interval, token_free_after
  end -- else it is only a place in the queue: the caller asks again
  -- Nobody may ever hand it back: then it comes back when no server can count it any more.
  redis.call("ZADD", credits, write(due + life), booked)
  tokens_held = tokens_held + tokens_of(booked)
end

redis.call("HSET", state, "run", run, "closed", closed, "opens", write(opens),
  "tokens", write(tokens_held), "free", write(free), "token_free", write(token_free))
local last = math.ceil((math.max(due, opens) + 2 * life - now) / 1000)
for _, key in ipairs(KEYS) do
  if redis.call("PTTL", key) < last then redis.call("PEXPIRE", key, write(last)) end
end
return due - now
