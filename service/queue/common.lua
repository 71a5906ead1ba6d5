-- Prepended to every verb. KEYS[1] is the key prefix: its hash tag puts every key of a queue in one slot.
-- Scripts are not rolled back on an error, so a verb checks first and writes last.
local P = KEYS[1]

local function job_key(id) return P .. 'job:' .. id end
local function events_key(id) return P .. 'events:' .. id end
local function ready_key(model) return P .. 'ready:' .. model end
local function leases_key(model) return P .. 'leases:' .. model end
local function finish_tags_key(model) return P .. 'finish_tags:' .. model end
local function blob_key(name) return P .. 'blob:' .. name end
local function blobs_key(id) return P .. 'blobs:' .. id end -- the names of the blobs that a job holds

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

-- When a job's service ends in virtual time: where the client's next one starts.
local function finish_tag(start, cost, weight)
  return string.format('%.17g', tonumber(start) + tonumber(cost) / tonumber(weight))
end

-- Into the ready set at the place its score gives it (a job that comes back keeps its old one).
local function enqueue(id, model, attempt, score)
  redis.call('ZADD', ready_key(model), score, id)
  local ahead = redis.call('ZRANK', ready_key(model), id)
  emit(id, attempt, 'queued', cjson.encode({ position = ahead }))
  ring(model)
  return ahead
end

-- Gives a blob's bytes back to the budget. False: there was none.
local function delete_blob(name)
  local size = redis.call('HGET', P .. 'blob_sizes', name)
  if not size then return false end
  redis.call('DECRBY', P .. 'blob_bytes', size)
  redis.call('HDEL', P .. 'blob_sizes', name)
  redis.call('ZREM', P .. 'blob_deadlines', name)
  redis.call('DEL', blob_key(name))
  return true
end

-- From now on a blob lives so long. False: there is none (any more).
local function let_blob_live(name, now, ttl_ms)
  if redis.call('PEXPIRE', blob_key(name), ttl_ms) == 0 then return false end
  redis.call('ZADD', P .. 'blob_deadlines', now + ttl_ms, name)
  return true
end

-- The end of a job, once: out of both sets, final state, and a clock on what it leaves behind. The blobs it held
-- are given back, but for those to keep (a set of names), which live as long as the job.
local function conclude(id, model, state, now, ttl_ms, keep)
  redis.call('ZREM', ready_key(model), id)
  redis.call('ZREM', leases_key(model), id)
  redis.call('HSET', job_key(id), 'state', state, 'finished_at', now, 'expires_at', now + ttl_ms)
  redis.call('PEXPIRE', job_key(id), ttl_ms)
  redis.call('PEXPIRE', events_key(id), ttl_ms)
  for _, name in ipairs(redis.call('SMEMBERS', blobs_key(id))) do
    if keep and keep[name] then let_blob_live(name, now, ttl_ms) else delete_blob(name) end
  end
  redis.call('DEL', blobs_key(id))
end
