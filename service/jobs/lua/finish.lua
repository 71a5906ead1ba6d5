-- finish: writes the one terminal event and the final state, if the attempt still holds the job.
-- ARGV: id, attempt, sequence, state, event, data, result ('' = none), error ('' = none), ttl_ms, then the names
-- of the blobs to keep as long as the job.
-- Returns ok | already | lost.
local id, attempt = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'line')
if not job[1] or job[2] ~= attempt or job[1] == 'queued' then
  if ARGV[4] == 'failed' then stay_blamed(id, attempt) else absolve(id, attempt) end
  return 'lost'
end
if job[1] ~= 'running' then return 'already' end

local reply = redis.pcall('XADD', events_key(id), attempt .. '-' .. ARGV[3], 'event', ARGV[5], 'data', ARGV[6])
if type(reply) == 'table' and reply.err then
  if not string.find(reply.err, 'equal or smaller', 1, true) then return reply end
  emit(id, attempt, ARGV[5], ARGV[6])
end
if ARGV[7] ~= '' then redis.call('HSET', job_key(id), 'result', ARGV[7]) end
if ARGV[8] ~= '' then redis.call('HSET', job_key(id), 'error', ARGV[8]) end
local keep = {}
for i = 10, #ARGV do keep[ARGV[i]] = true end
local now = now_ms()
if ARGV[4] == 'succeeded' and attempt == '1' then -- a later attempt keeps pictures of earlier ones
  local began = redis.call('HMGET', job_key(id), 'started_at', 'effort')
  if began[2] then measure(job[3], 'run', (now - tonumber(began[1])) / tonumber(began[2]), 1) end
end
conclude(id, job[3], ARGV[4], now, tonumber(ARGV[9]), keep)
return 'ok'
