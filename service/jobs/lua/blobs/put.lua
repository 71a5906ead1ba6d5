-- blobs/put: stores bytes under a name if the byte budget allows; the same name again replaces them. With a job, the
-- blob belongs to the job and ends with it; an attempt that has lost the job stores nothing. Blobs that ended jobs keep
-- make room for it.
-- ARGV: name, data, budget, share of it for uploads, ttl_ms, job id ('' = none: an upload), attempt, client ('' = none)
-- of an upload, then, if the blob is one of the job's pictures, its index and what later attempts need to know of it.
-- Returns {the bytes stored in all | -1 the store is full | -2 the job is lost | -3 the client's uploads take too much,
-- kept blobs that were deleted, bytes of the client's uploads, bytes that they may take}.
local name, data, now, client = ARGV[1], ARGV[2], now_ms(), ARGV[8]
local id, budget, ttl_ms = ARGV[6], tonumber(ARGV[3]), tonumber(ARGV[5])
if id ~= '' then
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt')
  if job[1] ~= 'running' or job[2] ~= ARGV[7] then return { -2, 0, 0, 0 } end
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', P .. 'blob_deadlines', '-inf', now)) do delete_blob(gone) end

-- A replica of an older version deletes blobs without this set; so they are looked up.
local function bytes_of_uploads()
  local names, total = redis.call('SMEMBERS', uploads_key(client)), 0
  for i = 1, #names, 500 do
    local sizes = redis.call('HMGET', P .. 'blob_sizes', unpack(names, i, math.min(i + 499, #names)))
    for j, size in ipairs(sizes) do
      if size then total = total + tonumber(size) else redis.call('SREM', uploads_key(client), names[i + j - 1]) end
    end
  end
  return total
end

-- Deletes kept blobs until so many bytes are free: the oldest of the client that keeps the most bytes. Returns how many
-- it deleted; false, and it deletes none, if all of them are too few.
local function make_room(bytes)
  local kept, deleted = redis.call('ZRANGE', KEPT_BYTES, 0, -1, 'WITHSCORES'), 0
  local most = 0
  for i = 2, #kept, 2 do most = most + tonumber(kept[i]) end
  if most < bytes then return false end
  while bytes > 0 do
    local owner = redis.call('ZREVRANGE', KEPT_BYTES, 0, 0)[1]
    if not owner then return false end
    local oldest = redis.call('ZRANGE', kept_key(owner), 0, 0)[1]
    if oldest then
      bytes = bytes - tonumber(redis.call('HGET', P .. 'blob_sizes', oldest) or '0')
      if delete_blob(oldest) then deleted = deleted + 1 else redis.call('ZREM', kept_key(owner), oldest) end
    else
      redis.call('ZREM', KEPT_BYTES, owner)
    end
  end
  return deleted
end

local replaced = tonumber(redis.call('HGET', P .. 'blob_sizes', name) or '0')
if id == '' then
  -- Uploads stay until their jobs end. The rest of the budget is reserved for the pictures of accepted jobs. One client
  -- may use as much as it then leaves free (dynamic thresholds: Choudhury and Hahne 1998), at most half. So however
  -- many clients use all that they may, some room is left for another one.
  local limit = budget * tonumber(ARGV[4])
  local uploads = tonumber(redis.call('GET', P .. 'upload_bytes') or '0')
  if client ~= '' then
    local own = bytes_of_uploads()
    local most = math.max(0, math.floor((limit - uploads + own) / 2))
    if own - replaced + #data > most then return { -3, 0, own, most } end
  end
  if uploads - replaced + #data > limit then return { -1, 0, 0, 0 } end
end
local total = tonumber(redis.call('GET', P .. 'blob_bytes') or '0')
local deleted = make_room(total - replaced + #data - budget)
if not deleted then return { -1, 0, 0, 0 } end

if id == '' then
  redis.call('SADD', P .. 'uploads', name)
  redis.call('INCRBY', P .. 'upload_bytes', #data - replaced)
  if client ~= '' then
    redis.call('SADD', uploads_key(client), name)
    redis.call('HSET', OWNERS, name, client)
  end
end
redis.call('SET', blob_key(name), data, 'PX', ttl_ms)
redis.call('HSET', P .. 'blob_sizes', name, #data)
redis.call('ZADD', P .. 'blob_deadlines', now + ttl_ms, name)
if id ~= '' then redis.call('SADD', blobs_key(id), name) end
if ARGV[9] then redis.call('HSET', pictures_key(id), ARGV[9], ARGV[10]) end
return { redis.call('INCRBY', P .. 'blob_bytes', #data - replaced), deleted, 0, 0 }
