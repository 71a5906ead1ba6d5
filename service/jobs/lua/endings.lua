-- How jobs and blobs end: prepended to every verb, after common.lua.

local OWNERS = P .. 'blob_owners' -- blob → client: uploads, and what ended jobs keep
local KEPT_BYTES = P .. 'kept_bytes' -- clients by the bytes that their ended jobs keep
local function uploads_key(client) return P .. 'uploads_of:' .. client end -- names of blobs
local function kept_key(client) return P .. 'kept:' .. client end -- names of blobs, by the time at which they expire

local function end_upload(name, size)
  if redis.call('SREM', P .. 'uploads', name) == 0 then return end
  redis.call('DECRBY', P .. 'upload_bytes', size)
  local client = redis.call('HGET', OWNERS, name)
  if client then redis.call('SREM', uploads_key(client), name) end
end

-- Gives a blob's bytes back to the budget. False: there was none.
local function delete_blob(name)
  local size = redis.call('HGET', P .. 'blob_sizes', name)
  if not size then return false end
  redis.call('DECRBY', P .. 'blob_bytes', size)
  end_upload(name, size)
  local client = redis.call('HGET', OWNERS, name)
  if client and redis.call('ZREM', kept_key(client), name) == 1
    and tonumber(redis.call('ZINCRBY', KEPT_BYTES, 0 - size, client)) <= 0 then
    redis.call('ZREM', KEPT_BYTES, client)
  end
  redis.call('HDEL', OWNERS, name)
  redis.call('HDEL', P .. 'blob_sizes', name)
  redis.call('ZREM', P .. 'blob_deadlines', name)
  redis.call('DEL', blob_key(name))
  return true
end

-- Sets a blob's time to live, from now. False: there is no such blob.
local function let_blob_live(name, now, ttl_ms)
  if redis.call('PEXPIRE', blob_key(name), ttl_ms) == 0 then return false end
  redis.call('ZADD', P .. 'blob_deadlines', now + ttl_ms, name)
  return true
end

-- From now on, the blob is one that an ended job of the client keeps.
local function keep_blob(name, client, now, ttl_ms)
  local size = redis.call('HGET', P .. 'blob_sizes', name)
  if not size or not let_blob_live(name, now, ttl_ms) then return end
  end_upload(name, size)
  redis.call('HSET', OWNERS, name, client)
  if redis.call('ZADD', kept_key(client), now + ttl_ms, name) == 0 then return end
  redis.call('ZINCRBY', KEPT_BYTES, size, client)
end

-- The job never ran, so the client's next job need not queue behind it. But if the client has a later job in this flow,
-- that job's place is fixed already, and a new job must not overtake it. A job that ran before is charged.
local function give_place_back(id)
  local job = redis.call('HMGET', job_key(id), 'attempt', 'line', 'flow', 'cost', 'weight', 'score', 'pixels')
  if job[1] ~= '0' then return end
  local tags = finish_tags_key(job[2])
  local tag = redis.call('HGET', tags, job[3])
  if tag == finish_tag(job[6], job[4], job[7], job[5]) then redis.call('HSET', tags, job[3], job[6]) end
end

-- The client's list of jobs ends with the last of them.
local function list_as_ended(id, client, unfinished, now, ttl_ms)
  redis.call('ZADD', ended_key(client), now + ttl_ms, id)
  if unfinished > 0 then return end
  redis.call('PEXPIRE', jobs_key(client), ttl_ms)
  redis.call('PEXPIRE', ended_key(client), ttl_ms)
end

-- Ends a job: removes it from every set and count, writes its final state, and sets the time to live of what it leaves.
-- Its blobs are deleted, except those to keep (a set of names), which live as long as the job. Its previews are deleted
-- too: a client that reads later gets the pictures themselves.
local function conclude(id, line, state, now, ttl_ms, keep)
  redis.call('ZREM', ready_key(line), id)
  redis.call('ZREM', quarantined_key(line), id)
  redis.call('ZREM', leases_key(line), id)
  redis.call('ZREM', UNENDED, id)
  redis.call('ZREM', UNSTARTED, id)
  local client, repeats, webhook = unpack(redis.call('HMGET', job_key(id), 'client', 'repeats', 'webhook'))
  local unfinished = redis.call('HINCRBY', UNFINISHED, client, -1)
  if unfinished <= 0 then redis.call('HDEL', UNFINISHED, client) end
  list_as_ended(id, client, unfinished, now, ttl_ms)
  if webhook then
    redis.call('ZADD', webhooks_key(client), now, id)
    redis.call('ZADD', WEBHOOKS, 'LT', now, client)
  end
  redis.call('HSET', job_key(id), 'state', state, 'finished_at', now, 'expires_at', now + ttl_ms)
  redis.call('PEXPIRE', job_key(id), ttl_ms)
  redis.call('PEXPIRE', events_key(id), ttl_ms)
  if repeats then redis.call('PEXPIRE', repeats, ttl_ms) end
  for _, name in ipairs(redis.call('SMEMBERS', blobs_key(id))) do
    if keep and keep[name] then keep_blob(name, client, now, ttl_ms) else delete_blob(name) end
  end
  for _, event in ipairs(redis.call('HVALS', previews_key(id))) do redis.call('XDEL', events_key(id), event) end
  redis.call('DEL', blobs_key(id), pictures_key(id), previews_key(id))
  redis.call('XADD', P .. 'ended', 'MAXLEN', '~', 1000, '*', 'job', id) -- for those who wait for the end alone
end

-- The ends that no worker reports.
local function cancel_now(id, line, attempt, now, ttl_ms)
  emit(id, attempt, 'canceled', '{}')
  conclude(id, line, 'canceled', now, ttl_ms)
end

local function fail_now(id, line, attempt, code, message, now, ttl_ms)
  local err = cjson.encode({ code = code, message = message })
  redis.call('HSET', job_key(id), 'error', err)
  emit(id, attempt, 'failed', '{"error":' .. err .. '}')
  conclude(id, line, 'failed', now, ttl_ms)
end

-- Fails a job whose start deadline is over, unless a worker has claimed it. Returns whether it did.
local function fail_unstarted(id, now, ttl_ms)
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'line', 'created_at', 'start_by')
  redis.call('ZREM', UNSTARTED, id)
  if job[1] ~= 'queued' or job[2] ~= '0' then return false end
  local seconds = (tonumber(job[5]) - tonumber(job[4])) / 1000
  local message = string.format('no worker began with this job within the %.14g seconds of X-Start-Timeout', seconds)
  give_place_back(id)
  fail_now(id, job[3], job[2], 'start_timeout', message, now, ttl_ms)
  return true
end

-- Fails the jobs whose start deadline is over, 64 at most. Returns their ids.
local function sweep_unstarted(now, ttl_ms)
  local failed = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', UNSTARTED, '-inf', now, 'LIMIT', 0, 64)) do
    if fail_unstarted(id, now, ttl_ms) then failed[#failed + 1] = id end
  end
  return failed
end

-- The client's next webhook is called when it is due.
local function schedule_webhooks(client)
  local first = redis.call('ZRANGE', webhooks_key(client), 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', WEBHOOKS, first[2], client) else redis.call('ZREM', WEBHOOKS, client) end
end
