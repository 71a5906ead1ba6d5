-- claim: the heads of a model's ready set while they fit the budget; a head that does not fit stops the
-- line, so a big job never starves. First, expired leases go back to the ready set.
-- ARGV: model, worker, nonce, budget, limit, alone, lease_ms, max_lost, ttl_ms.
-- Returns {id, attempt, cost, payload, cancel, queued_ms} per granted job.
local model, worker, nonce = ARGV[1], ARGV[2], ARGV[3]
local budget, limit, alone = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local lease_ms, max_lost, ttl_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local ready, leases = ready_key(model), leases_key(model)
local now = now_ms()

local function granted(id)
  local job = redis.call('HMGET', job_key(id), 'attempt', 'cost', 'payload', 'cancel', 'created_at')
  return { id, job[1], job[2], job[3], job[4] or '0', now - tonumber(job[5]) }
end

-- A call repeated because its reply was lost (same nonce) gets the same grant again. A worker claims for each of
-- its models by itself.
local grant_key = P .. 'grant:' .. worker .. ':' .. model
local last = redis.call('GET', grant_key)
if last then
  local grant = cjson.decode(last)
  if grant.nonce == nonce then
    local again = {}
    for _, g in ipairs(grant.jobs) do
      local job = redis.call('HMGET', job_key(g.id), 'state', 'attempt')
      if job[1] == 'running' and job[2] == g.attempt then again[#again + 1] = granted(g.id) end
    end
    return again
  end
end

local function give_up(id, state, event, data, err)
  if err then redis.call('HSET', job_key(id), 'error', err) end
  emit(id, redis.call('HGET', job_key(id), 'attempt'), event, data)
  conclude(id, model, state, now, ttl_ms)
end

local function reap()
  local expired = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 64)
  if #expired == 0 then return end
  -- After a restart of the server every lease looks expired while its worker lives: one lease to come back.
  local uptime = string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')
  if tonumber(uptime) * 1000 < lease_ms then return end
  for _, id in ipairs(expired) do
    redis.call('ZREM', leases, id)
    local lost = redis.call('HINCRBY', job_key(id), 'lost', 1)
    local job = redis.call('HMGET', job_key(id), 'attempt', 'score', 'cancel')
    if job[3] then
      give_up(id, 'canceled', 'canceled', '{}')
    elseif lost >= max_lost then
      local err = cjson.encode({ code = 'worker_lost',
        message = lost .. ' workers were lost while they drew this job' })
      give_up(id, 'failed', 'failed', '{"error":' .. err .. '}', err)
    else
      redis.call('HSET', job_key(id), 'state', 'queued')
      enqueue(id, model, job[1], job[2])
    end
  end
end
reap()

local grants, noted = {}, {}
for _, id in ipairs(redis.call('ZRANGE', ready, 0, limit - 1)) do
  local job = redis.call('HMGET', job_key(id), 'cost', 'score')
  local cost = tonumber(job[1])
  if cost > budget and not (alone and #grants == 0) then break end
  budget = budget - cost
  redis.call('ZREM', ready, id)
  local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
  redis.call('HSET', job_key(id), 'state', 'running', 'worker', worker, 'started_at', now)
  redis.call('ZADD', leases, now + lease_ms, id)
  -- A job that came back has an old tag: virtual time never runs backwards.
  if tonumber(job[2]) > tonumber(redis.call('HGET', P .. 'virtual_time', model) or '0') then
    redis.call('HSET', P .. 'virtual_time', model, job[2])
  end
  grants[#grants + 1] = granted(id)
  noted[#noted + 1] = { id = id, attempt = tostring(attempt) }
end
if #grants > 0 then
  redis.call('SET', grant_key, cjson.encode({ nonce = nonce, jobs = noted }), 'PX', 60000)
end
return grants
