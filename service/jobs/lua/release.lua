-- release: a draining worker returns a job to its old place, without blame.
-- ARGV: id, attempt, ttl_ms.  Returns ok | already | lost.
local id, attempt = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'line', 'cancel')
if job[1] ~= 'running' or job[2] ~= attempt then absolve(id, attempt) end
if not job[1] or job[2] ~= attempt then return 'lost' end
if job[1] ~= 'running' then return 'already' end

if job[4] then
  cancel_now(id, job[3], attempt, now_ms(), tonumber(ARGV[3]))
  return 'ok'
end
redis.call('ZREM', leases_key(job[3]), id)
enqueue(id, job[3], attempt)
return 'ok'
