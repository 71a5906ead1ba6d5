-- expire: jobs that nobody has drawn for so long that what they held is gone, whether a worker lives or none, fail.
-- ARGV: limit, ttl_ms, seconds that they may wait (for their error alone).
-- Returns the jobs that ended here: id, state, payload.
local now, ended = now_ms(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', UNENDED, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local job = redis.call('HMGET', job_key(id), 'model', 'attempt', 'cancel', 'payload')
  local lease = job[1] and tonumber(redis.call('ZSCORE', leases_key(job[1]), id) or '0') or 0
  if not job[1] then
    redis.call('ZREM', UNENDED, id)
  elseif lease > now then
    redis.call('ZADD', UNENDED, lease, id) -- it is drawn after all
  elseif job[3] then
    cancel_now(id, job[1], job[2], now, tonumber(ARGV[2]))
    ended[#ended + 1] = { id, 'canceled', job[4] }
  else
    local message = 'no worker drew this job within ' .. ARGV[3] .. ' seconds'
    fail_now(id, job[1], job[2], 'expired_waiting', message, now, tonumber(ARGV[2]))
    ended[#ended + 1] = { id, 'failed', job[4] }
  end
end
return ended
