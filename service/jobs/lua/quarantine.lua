-- quarantine: a worker returns a job because its engine failed. This job or another beside it may be the reason, so it
-- becomes a poison candidate. A job whose attempts were lost alone too often fails.
-- ARGV: id, attempt, code, message, max_lost, ttl_ms.  Returns ok | failed | canceled | already | lost.
local id, attempt = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'line', 'cancel')
if job[1] ~= 'running' or job[2] ~= attempt then stay_blamed(id, attempt) end
if not job[1] or job[2] ~= attempt then return 'lost' end
if job[1] ~= 'running' then return 'already' end

local now, ttl_ms = now_ms(), tonumber(ARGV[6])
if job[4] then
  cancel_now(id, job[3], attempt, now, ttl_ms)
  return 'canceled'
end
redis.call('ZREM', leases_key(job[3]), id)
if blame(id, attempt, now) >= tonumber(ARGV[5]) then
  fail_now(id, job[3], attempt, ARGV[3], ARGV[4], now, ttl_ms)
  return 'failed'
end
enqueue(id, job[3], attempt)
return 'ok'
