-- Prepended to every verb. KEYS[1] is the key prefix: its hash tag puts every key of a queue in one slot.
-- Redis does not roll a script back after an error, so a verb checks first and writes last.
local P = KEYS[1]

-- A line holds the jobs for one model in one version of the job spec: those that the same workers can draw.
local function job_key(id) return P .. 'job:' .. id end
local function events_key(id) return P .. 'events:' .. id end
local function ready_key(line) return P .. 'ready:' .. line end
local function quarantined_key(line) return P .. 'quarantine:' .. line end
local function leases_key(line) return P .. 'leases:' .. line end
local function finish_tags_key(line) return P .. 'finish_tags:' .. line end
local function blob_key(name) return P .. 'blob:' .. name end
local function blobs_key(id) return P .. 'blobs:' .. id end -- the names of the blobs that a job holds
local function pictures_key(id) return P .. 'pictures:' .. id end -- those of its pictures that are finished
local function previews_key(id) return P .. 'previews:' .. id end -- picture → the event that shows it as it is now
local LINES = P .. 'lines' -- every line, by the time of its last claim
local UNENDED = P .. 'unended' -- jobs that have not ended, by the time at which they have waited too long
local UNFINISHED = P .. 'unfinished' -- client → jobs of its that have not ended, of all models
local UNSTARTED = P .. 'unstarted' -- jobs with a start deadline that no worker has claimed, by that deadline
local WEBHOOKS = P .. 'webhooks' -- clients with webhooks to call, by the time of the first call
local function webhooks_key(client) return P .. 'webhooks_of:' .. client end -- its ended jobs, by the time of the call
local function jobs_key(client) return P .. 'jobs_of:' .. client end -- its jobs, in the order of their creation
local function ended_key(client) return P .. 'ended_of:' .. client end -- those that ended, by the time they expire
local function pace_key(line) return P .. 'pace:' .. line end -- how fast the line's jobs were claimed and drawn of late

-- Milliseconds on the server's clock: leases never trust a worker's.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Workers call many times during a lease. If no call came for half a lease, the server itself was away (restarted or
-- cut off) or its clock jumped: leases look expired although their workers live. No lease is reaped for one lease more.
local function hear(now, lease_ms)
  local before = tonumber(redis.call('GET', P .. 'heard_at') or now)
  if now - before > lease_ms / 2 then redis.call('SET', P .. 'reap_from', now + lease_ms) end
  redis.call('SET', P .. 'heard_at', now)
end

-- Wakes an idle worker. The list is capped, because busy workers claim between steps and never read it.
local function ring(line)
  redis.call('LPUSH', P .. 'bell:' .. line, 1)
  redis.call('LTRIM', P .. 'bell:' .. line, 0, 15)
end

-- Appends an event that no worker sends, under the attempt's next sequence number.
local function emit(id, attempt, event, data)
  redis.call('XADD', events_key(id), attempt .. '-*', 'event', event, 'data', data)
end

-- To read, composite and write so many pixels takes a worker as long as to draw one KV token.
local PIXELS_PER_TOKEN = 4096

-- The virtual time at which a job ends, and the next job of its flow starts. pixels: nil for a job of an old replica.
local function finish_tag(start, cost, pixels, weight)
  local work = tonumber(cost) + tonumber(pixels or '0') / PIXELS_PER_TOKEN
  return string.format('%.17g', tonumber(start) + work / tonumber(weight))
end

-- Takes a value into a moving average of the line, in ms. It is forgotten after ten minutes without a new one.
local function measure(line, what, value, count)
  local before = redis.call('HGET', pace_key(line), what)
  local kept = before and 0.9 ^ count or 0
  local average = tonumber(before or '0') * kept + value * (1 - kept)
  redis.call('HSET', pace_key(line), what, string.format('%.17g', average))
  redis.call('PEXPIRE', pace_key(line), 600000)
end

-- The number of jobs that are claimed before this one; nil if it does not wait.
local function position(id, line)
  return redis.call('ZRANK', ready_key(line), id) or redis.call('ZRANK', quarantined_key(line), id) or nil
end

-- Puts a job into the ready set, at the place that its score gives it (a job that comes back keeps its place), or among
-- the poison candidates, in the order in which they were quarantined.
local function enqueue(id, line, attempt)
  local job = redis.call('HMGET', job_key(id), 'score', 'quarantined_at')
  redis.call('HSET', job_key(id), 'state', 'queued')
  if job[2] then
    redis.call('ZADD', quarantined_key(line), job[2], id)
  else
    redis.call('ZADD', ready_key(line), job[1], id)
  end
  local ahead = position(id, line)
  emit(id, attempt, 'queued', cjson.encode({ position = ahead }))
  ring(line)
  return ahead
end

-- An attempt ended because its worker was lost or its engine failed. Any job of that worker may be the reason, so this
-- one becomes a poison candidate. Returns how many of its attempts were lost while no other job ran beside it, and
-- whether this attempt was one of them (1 or 0).
local function blame(id, attempt, now)
  local alone = redis.call('HGET', job_key(id), 'alone') == attempt and 1 or 0
  redis.call('HSET', job_key(id), 'quarantined_at', now)
  redis.call('HINCRBY', job_key(id), 'blames', 1)
  return redis.call('HINCRBY', job_key(id), 'lost', alone), alone
end

-- As blame, for a worker whose lease expired. It may come back.
local function blame_the_silent(id, attempt, now)
  local lost, alone = blame(id, attempt, now)
  redis.call('HSET', job_key(id), 'silent:' .. attempt, alone)
  return lost
end

-- A worker that comes back and reports a failure of the attempt was not merely frozen: the blame can't be undone.
local function stay_blamed(id, attempt) redis.call('HDEL', job_key(id), 'silent:' .. attempt) end

-- A worker that calls for an attempt that it has lost was frozen or cut off, not killed: the blame is undone.
local function absolve(id, attempt)
  local alone = redis.call('HGET', job_key(id), 'silent:' .. attempt)
  if not alone then return end
  stay_blamed(id, attempt)
  redis.call('HINCRBY', job_key(id), 'lost', 0 - alone)
  if redis.call('HINCRBY', job_key(id), 'blames', -1) > 0 then return end
  local job = redis.call('HMGET', job_key(id), 'state', 'line', 'score')
  redis.call('HDEL', job_key(id), 'quarantined_at')
  if job[1] == 'queued' then
    redis.call('ZREM', quarantined_key(job[2]), id)
    redis.call('ZADD', ready_key(job[2]), job[3], id)
    ring(job[2])
  end
end
