-- release: a draining worker gives a job back, to its old place and without blame.
-- ARGV: id, attempt, ttl_ms.  Returns ok | already | lost.
local id, attempt = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'model', 'score', 'cancel')
if not job[1] or job[2] ~= attempt then return 'lost' end
if job[1] ~= 'running' then return 'already' end

if job[5] then
  emit(id, attempt, 'canceled', '{}')
  conclude(id, job[3], 'canceled', now_ms(), tonumber(ARGV[3]))
  return 'ok'
end
redis.call('ZREM', leases_key(job[3]), id)
redis.call('HSET', job_key(id), 'state', 'queued')
enqueue(id, job[3], attempt, job[4])
return 'ok'
