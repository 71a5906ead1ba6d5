-- Prepended to every verb. KEYS[1] is the key prefix: its hash tag puts every key of a queue in one slot.
-- Scripts are not rolled back on an error, so a verb checks first and writes last.
local P = KEYS[1]

local function job_key(id) return P .. 'job:' .. id end
local function events_key(id) return P .. 'events:' .. id end
local function ready_key(model) return P .. 'ready:' .. model end
local function suspects_key(model) return P .. 'suspects:' .. model end
local function leases_key(model) return P .. 'leases:' .. model end
local function finish_tags_key(model) return P .. 'finish_tags:' .. model end
local function blob_key(name) return P .. 'blob:' .. name end
local function blobs_key(id) return P .. 'blobs:' .. id end -- the names of the blobs that a job holds
local function pictures_key(id) return P .. 'pictures:' .. id end -- those of its pictures that are finished
local function previews_key(id) return P .. 'previews:' .. id end -- picture → the event that shows it as it is now
local UNENDED = P .. 'unended' -- jobs that have not ended, by the time at which they have waited too long
local UNFINISHED = P .. 'unfinished' -- client → jobs of its that have not ended, of all models

-- Milliseconds on the server's clock: leases never trust a worker's.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Workers speak many times a lease. When none was heard for long, it was the server that was away (stopped, started
-- again, cut off), or its clock that jumped: every lease looks expired while its worker lives. One lease to come back.
local function hear(now, lease_ms)
  local before = tonumber(redis.call('GET', P .. 'heard_at') or now)
  if now - before > lease_ms / 2 then redis.call('SET', P .. 'reap_from', now + lease_ms) end
  redis.call('SET', P .. 'heard_at', now)
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

-- When a job's service ends in virtual time: where the next one of its flow starts.
local function finish_tag(start, cost, weight)
  return string.format('%.17g', tonumber(start) + tonumber(cost) / tonumber(weight))
end

-- Jobs that would be taken before this one; nil when it does not wait.
local function position(id, model)
  return redis.call('ZRANK', ready_key(model), id) or redis.call('ZRANK', suspects_key(model), id) or nil
end

-- To where a job waits: the place in the ready set that its score gives it (one that comes back keeps its old one),
-- or with the poison candidates, in the order in which they became so.
local function enqueue(id, model, attempt)
  local job = redis.call('HMGET', job_key(id), 'score', 'suspected_at')
  redis.call('HSET', job_key(id), 'state', 'queued')
  if job[2] then
    redis.call('ZADD', suspects_key(model), job[2], id)
  else
    redis.call('ZADD', ready_key(model), job[1], id)
  end
  local ahead = position(id, model)
  emit(id, attempt, 'queued', cjson.encode({ position = ahead }))
  ring(model)
  return ahead
end

-- An attempt ended with its worker or its engine, and any of the jobs there may be the reason: this one is a suspect
-- from now on. Returns how often it was so while nothing was beside it, and whether it was so now (1 or 0).
local function blame(id, attempt, now)
  local alone = redis.call('HGET', job_key(id), 'alone') == attempt and 1 or 0
  redis.call('HSET', job_key(id), 'suspected_at', now)
  redis.call('HINCRBY', job_key(id), 'blames', 1)
  return redis.call('HINCRBY', job_key(id), 'lost', alone), alone
end

-- As blame, for a worker that is silent. It may come back.
local function blame_the_silent(id, attempt, now)
  local lost, alone = blame(id, attempt, now)
  redis.call('HSET', job_key(id), 'silent:' .. attempt, alone)
  return lost
end

-- Whoever returns and tells of a failure was not only silent: nothing that it says later undoes the blame.
local function stay_blamed(id, attempt) redis.call('HDEL', job_key(id), 'silent:' .. attempt) end

-- Whoever speaks for an attempt that it lost was frozen or cut off, not dead: what this attempt was blamed for did not
-- happen.
local function absolve(id, attempt)
  local alone = redis.call('HGET', job_key(id), 'silent:' .. attempt)
  if not alone then return end
  stay_blamed(id, attempt)
  redis.call('HINCRBY', job_key(id), 'lost', 0 - alone)
  if redis.call('HINCRBY', job_key(id), 'blames', -1) > 0 then return end
  local job = redis.call('HMGET', job_key(id), 'state', 'model', 'score')
  redis.call('HDEL', job_key(id), 'suspected_at')
  if job[1] == 'queued' then
    redis.call('ZREM', suspects_key(job[2]), id)
    redis.call('ZADD', ready_key(job[2]), job[3], id)
    ring(job[2])
  end
end
