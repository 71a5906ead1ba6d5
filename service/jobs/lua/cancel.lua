-- cancel: ends a waiting job at once; flags a running job, and publish reports the flag to its worker.
-- ARGV: id, ttl_ms.  Returns canceled (by this call) | requested | finished | unknown.
local id = ARGV[1]
local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'line')
if not job[1] then return 'unknown' end
if job[1] ~= 'queued' and job[1] ~= 'running' then return 'finished' end

local now = now_ms()
if job[1] == 'running' then
  local lease = tonumber(redis.call('ZSCORE', leases_key(job[3]), id) or '0')
  if lease > now then
    redis.call('HSET', job_key(id), 'cancel', 1)
    return 'requested'
  end
  -- Its lease has expired, and there may be no other worker that would see the flag.
else
  give_place_back(id)
end
cancel_now(id, job[3], job[2], now, tonumber(ARGV[2]))
return 'canceled'
