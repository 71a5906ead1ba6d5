-- put_blob: stores bytes under a name if the byte budget allows; the same name again replaces them. With a job, the
-- blob belongs to the job and ends with it; an attempt that has lost the job stores nothing.
-- ARGV: name, data, budget, share of it for uploads, ttl_ms, job id ('' = none: an upload), attempt, then, if the blob
-- is one of the job's pictures, its index and what later attempts need to know of it.
-- Returns the bytes stored in all; -1 when the store is full, -2 when the job is lost.
local name, data, now = ARGV[1], ARGV[2], now_ms()
local id, budget, ttl_ms = ARGV[6], tonumber(ARGV[3]), tonumber(ARGV[5])
if id ~= '' then
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt')
  if job[1] ~= 'running' or job[2] ~= ARGV[7] then return -2 end
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', P .. 'blob_deadlines', '-inf', now)) do delete_blob(gone) end

local total = tonumber(redis.call('GET', P .. 'blob_bytes') or '0')
local replaced = tonumber(redis.call('HGET', P .. 'blob_sizes', name) or '0')
if total - replaced + #data > budget then return -1 end
if id == '' then
  -- Uploads stay until their jobs end. The rest of the budget is reserved for the pictures of accepted jobs.
  local uploads = tonumber(redis.call('GET', P .. 'upload_bytes') or '0')
  if uploads - replaced + #data > budget * tonumber(ARGV[4]) then return -1 end
  redis.call('SADD', P .. 'uploads', name)
  redis.call('INCRBY', P .. 'upload_bytes', #data - replaced)
end
redis.call('SET', blob_key(name), data, 'PX', ttl_ms)
redis.call('HSET', P .. 'blob_sizes', name, #data)
redis.call('ZADD', P .. 'blob_deadlines', now + ttl_ms, name)
if id ~= '' then redis.call('SADD', blobs_key(id), name) end
if ARGV[8] then redis.call('HSET', pictures_key(id), ARGV[8], ARGV[9]) end
return redis.call('INCRBY', P .. 'blob_bytes', #data - replaced)
