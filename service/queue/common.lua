-- Prepended to every verb. KEYS[1] is the key prefix: its hash tag puts every key of a queue in one slot.
-- Scripts are not rolled back on an error, so a verb checks first and writes last.
local P = KEYS[1]

local function job_key(id) return P .. 'job:' .. id end
local function events_key(id) return P .. 'events:' .. id end
local function ready_key(model) return P .. 'ready:' .. model end
local function leases_key(model) return P .. 'leases:' .. model end
local function finish_tags_key(model) return P .. 'finish_tags:' .. model end

-- Milliseconds on the server's clock: leases never trust a worker's.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Wakes an idle worker. Capped: busy workers claim between steps and never listen.
local function ring(model)
  redis.call('LPUSH', P .. 'bell:' .. model, 1)
  redis.call('LTRIM', P .. 'bell:' .. model, 0, 15)
end

-- An event that the server itself speaks: the next sequence of this attempt.
local function emit(id, attempt, event, data)
  redis.call('XADD', events_key(id), attempt .. '-*', 'event', event, 'data', data)
end

-- Into the ready set at the place its score gives it (a job that comes back keeps its old one).
local function enqueue(id, model, attempt, score)
  redis.call('ZADD', ready_key(model), score, id)
  local ahead = redis.call('ZRANK', ready_key(model), id)
  emit(id, attempt, 'queued', cjson.encode({ position = ahead }))
  ring(model)
  return ahead
end

-- The end of a job, once: out of both sets, final state, and a clock on what it leaves behind.
local function conclude(id, model, state, now, ttl_ms)
  redis.call('ZREM', ready_key(model), id)
  redis.call('ZREM', leases_key(model), id)
  redis.call('HSET', job_key(id), 'state', state, 'finished_at', now, 'expires_at', now + ttl_ms)
  redis.call('PEXPIRE', job_key(id), ttl_ms)
  redis.call('PEXPIRE', events_key(id), ttl_ms)
end
