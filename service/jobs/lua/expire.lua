-- expire: fails jobs that no worker has drawn within the time for which their blobs are held, jobs whose start deadline
-- is over, and the jobs of lines that no worker reads any more.
-- ARGV: limit, ttl_ms, seconds that a job may wait (for its error alone), then the unread lines.
-- Returns the jobs that ended here: id, state, payload, code ('' = none) of the error, request id, ms since its submission.
local limit, ttl_ms, now, ended = tonumber(ARGV[1]), tonumber(ARGV[2]), now_ms(), {}

-- Ends the job, unless a worker draws it. Returns when its lease ends, if one does.
local function end_waiting(id, code, message)
  local job = redis.call('HMGET', job_key(id), 'line', 'attempt', 'cancel', 'payload')
  if not job[1] then
    redis.call('ZREM', UNENDED, id)
    return
  end
  local lease = tonumber(redis.call('ZSCORE', leases_key(job[1]), id) or '0')
  if lease > now then return lease end
  if job[3] then
    cancel_now(id, job[1], job[2], now, ttl_ms)
    ended[#ended + 1] = { id, 'canceled', job[4], '' }
  else
    fail_now(id, job[1], job[2], code, message, now, ttl_ms)
    ended[#ended + 1] = { id, 'failed', job[4], code }
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', UNENDED, '-inf', now, 'LIMIT', 0, limit)) do
  local lease = end_waiting(id, 'expired_waiting', 'no worker drew this job within ' .. ARGV[3] .. ' seconds')
  if lease then redis.call('ZADD', UNENDED, lease, id) end
end
for _, id in ipairs(sweep_unstarted(now, ttl_ms)) do
  ended[#ended + 1] = { id, 'failed', redis.call('HGET', job_key(id), 'payload'), 'start_timeout' }
end
for i = 4, #ARGV do
  for _, places in ipairs({ ready_key, quarantined_key, leases_key }) do
    for _, id in ipairs(redis.call('ZRANGE', places(ARGV[i]), 0, limit - 1)) do
      end_waiting(id, 'unsupported_job_version',
        'the service was updated, and no worker reads this version of the job any more: send the request again')
    end
  end
end
for _, one in ipairs(ended) do
  local job = redis.call('HMGET', job_key(one[1]), 'request', 'created_at')
  one[5], one[6] = job[1] or '', now - tonumber(job[2])
end
return ended
