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

-- Ends a job: removes it from every set and count, writes its final state, and sets the time to live of what it leaves.
-- Its blobs are deleted, except those to keep (a set of names), which live as long as the job. Its previews are deleted
-- too: a client that reads later gets the pictures themselves.
local function conclude(id, line, state, now, ttl_ms, keep)
  redis.call('ZREM', ready_key(line), id)
  redis.call('ZREM', quarantined_key(line), id)
  redis.call('ZREM', leases_key(line), id)
  redis.call('ZREM', UNENDED, id)
  local client, repeats = unpack(redis.call('HMGET', job_key(id), 'client', 'repeats'))
  if redis.call('HINCRBY', UNFINISHED, client, -1) <= 0 then redis.call('HDEL', UNFINISHED, client) end
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

-- The two ends that no worker reports.
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
