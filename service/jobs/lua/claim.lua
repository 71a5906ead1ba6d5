-- claim: leases the first jobs of a line's ready set while they fit the budget. A first job that does not fit blocks
-- those behind it, so a big job never starves. A worker that holds no job gets the oldest poison candidate instead, and
-- nothing beside it; if that candidate has waited too long, one busy worker is told to claim nothing until it is empty.
-- A client whose pictures the worker can't store as fast as it draws them is passed over.
-- Before that, jobs whose lease has expired return, and jobs whose start deadline is over end: none begins late.
-- ARGV: line, worker, nonce, budget, limit, alone, empty, lease_ms, max_lost, ttl_ms, patience_ms, the pixels that the
-- worker may hold, then client and held pixels of each client of which it holds any.
-- Returns {the granted: id, attempt, cost, payload, cancel, queued_ms, alone, pictures, client, pixels, request id},
-- whether to become empty, {the jobs that ended here: id, state, payload, code ('' = none) of the error, request id,
-- ms since its submission}, how many leases expired}.
local line, worker, nonce = ARGV[1], ARGV[2], ARGV[3]
local budget, limit, alone, empty = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7] == '1'
local lease_ms, max_lost = tonumber(ARGV[8]), tonumber(ARGV[9])
local ttl_ms, patience_ms, most_pixels = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local ready, candidates, leases = ready_key(line), quarantined_key(line), leases_key(line)
local now = now_ms()
hear(now, lease_ms)
redis.call('ZADD', LINES, now, line)

local function granted(id)
  local job = redis.call('HMGET', job_key(id), 'attempt', 'cost', 'payload', 'cancel', 'created_at', 'alone', 'client',
    'pixels', 'request')
  local as_candidate = job[6] == job[1] and 1 or 0
  return { id, job[1], job[2], job[3], job[4] or '0', now - tonumber(job[5]), as_candidate,
    redis.call('HVALS', pictures_key(id)), job[7], job[8] or '0', job[9] or '' }
end

local function ended(id)
  local job = redis.call('HMGET', job_key(id), 'state', 'payload', 'error', 'request', 'created_at')
  return { id, job[1], job[2], job[3] and cjson.decode(job[3]).code or '', job[4] or '', now - tonumber(job[5]) }
end

-- A call that is repeated because its reply was lost has the same nonce, and gets the same answer. A worker claims for
-- each of its models separately.
local answer_key = P .. 'grant:' .. worker .. ':' .. line
local last = redis.call('GET', answer_key)
if last then
  local answer = cjson.decode(last)
  if answer.nonce == nonce then
    local grants, ends = {}, {}
    for _, given in ipairs(answer.jobs) do
      local job = redis.call('HMGET', job_key(given.id), 'state', 'attempt')
      if job[1] == 'running' and job[2] == given.attempt then grants[#grants + 1] = granted(given.id) end
    end
    for _, id in ipairs(answer.ended) do
      if redis.call('EXISTS', job_key(id)) == 1 then ends[#ends + 1] = ended(id) end
    end
    return { grants, 0, ends, answer.reaped or 0 }
  end
end

local ended_ids, reaped = {}, 0

local function reap()
  -- No lease ends later than one lease from now, unless the clock was ahead when it was written.
  local from = tonumber(redis.call('GET', P .. 'reap_from') or '0')
  if now < from and from - now <= lease_ms then return end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '(' .. now + lease_ms, '+inf', 'LIMIT', 0, 64)) do
    redis.call('ZADD', leases, now + lease_ms, id)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 64)) do
    redis.call('ZREM', leases, id)
    reaped = reaped + 1
    local job = redis.call('HMGET', job_key(id), 'attempt', 'cancel')
    local lost = blame_the_silent(id, job[1], now)
    if job[2] then
      cancel_now(id, line, job[1], now, ttl_ms)
      ended_ids[#ended_ids + 1] = id
    elseif lost >= max_lost then
      local message = lost .. ' workers were lost while they drew this job and no other'
      fail_now(id, line, job[1], 'worker_lost', message, now, ttl_ms)
      ended_ids[#ended_ids + 1] = id
    else
      enqueue(id, line, job[1])
    end
  end
end
reap()
for _, id in ipairs(sweep_unstarted(now, ttl_ms)) do ended_ids[#ended_ids + 1] = id end

local given = {}

local function grant(id, set)
  redis.call('ZREM', set, id)
  redis.call('ZREM', UNSTARTED, id)
  local attempt = tostring(redis.call('HINCRBY', job_key(id), 'attempt', 1))
  redis.call('HSET', job_key(id), 'state', 'running', 'worker', worker, 'started_at', now)
  redis.call('ZADD', leases, now + lease_ms, id)
  given[#given + 1] = { id = id, attempt = attempt }
  return attempt
end

-- Returns whether the worker may claim no ready job, because it got the oldest poison candidate or must become empty
-- for it, and whether it must become empty (1 or 0).
local function take_candidate()
  local oldest = redis.call('ZRANGE', candidates, 0, 0, 'WITHSCORES')
  if #oldest == 0 then return false, 0 end
  if empty then
    redis.call('HSET', job_key(oldest[1]), 'alone', grant(oldest[1], candidates))
    return true, 0
  end
  if now - tonumber(oldest[2]) < patience_ms then return false, 0 end
  local emptying_key = P .. 'emptying:' .. line
  local emptying = redis.call('GET', emptying_key)
  if emptying and emptying ~= worker then return false, 0 end
  redis.call('SET', emptying_key, worker, 'PX', math.max(lease_ms, 5000))
  return true, 1
end
local taken, become_empty = take_candidate()

local held, held_by_all = {}, 0
local function hold(client, pixels)
  held[client] = (held[client] or 0) + pixels
  held_by_all = held_by_all + pixels
end
for i = 13, #ARGV, 2 do hold(ARGV[i], tonumber(ARGV[i + 1])) end

-- A client may hold half of the pixels. While all clients together hold too many, each may hold one job. So a client
-- waits for its own pictures only, and no job is passed over for ever.
local function is_full(client)
  local pixels = held[client] or 0
  return pixels > 0 and (pixels >= most_pixels / 2 or held_by_all >= most_pixels)
end

-- Returns whether the job blocks those behind it.
local function consider(id)
  local job = redis.call('HMGET', job_key(id), 'cost', 'score', 'client', 'pixels', 'start_by')
  if job[5] and tonumber(job[5]) <= now and fail_unstarted(id, now, ttl_ms) then -- more than one sweep ends
    ended_ids[#ended_ids + 1] = id
    return false
  end
  if is_full(job[3]) then return false end
  local cost = tonumber(job[1])
  if cost > budget and not (alone and #given == 0) then return true end
  budget = budget - cost
  hold(job[3], tonumber(job[4] or '0'))
  grant(id, ready)
  -- A job that came back has an old tag, but virtual time never runs backwards.
  if tonumber(job[2]) > tonumber(redis.call('HGET', P .. 'virtual_time', line) or '0') then
    redis.call('HSET', P .. 'virtual_time', line, job[2])
  end
  return false
end

local blocked, passed_over, as_candidates = taken, 0, #given
while not blocked and #given < limit do
  local before = #given + #ended_ids
  local ids = redis.call('ZRANGE', ready, passed_over, passed_over + limit - #given - 1)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    blocked = consider(id)
    if blocked then break end
  end
  passed_over = passed_over + #ids - (#given + #ended_ids - before)
end

-- How long jobs wait for each other: from a claim that left some to the next one, for each job that it took.
local took = #given - as_candidates
if took > 0 then
  local left_at = redis.call('HGET', pace_key(line), 'left_at')
  if left_at then measure(line, 'gap', (now - tonumber(left_at)) / took, took) end
  if redis.call('ZCARD', ready) > 0 then
    redis.call('HSET', pace_key(line), 'left_at', now)
    redis.call('PEXPIRE', pace_key(line), 600000)
  else
    redis.call('HDEL', pace_key(line), 'left_at')
  end
end
if #given + #ended_ids + reaped > 0 then
  local answer = { nonce = nonce, jobs = given, ended = ended_ids, reaped = reaped }
  redis.call('SET', answer_key, cjson.encode(answer), 'PX', 3600000)
end
local grants, ends = {}, {}
for _, one in ipairs(given) do grants[#grants + 1] = granted(one.id) end
for _, id in ipairs(ended_ids) do ends[#ends + 1] = ended(id) end
return { grants, become_empty, ends, reaped }
