-- submit: puts a new job into its line's ready set. For a known id it returns the job's state, so a repeat is harmless.
-- KEYS[2]: only of a request with an idempotency key; holds the id of the job that the request made already.
-- ARGV: id, line, client, priority, quota ('' = none), cost, weight, payload, max_queued, held_ms, pixels, effort,
-- about, start_ms ('' = no start deadline), webhook ('' = none), how many jobs a client's list has at most,
-- request id, then the names of the blobs that the job holds until it ends.
-- Returns {1 created | 0 known | -1 the queue is full | -2 the client's quota is, state, jobs ahead | -1, id}.
local id, line, client, priority = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local cost, max_queued, held_ms, pixels = ARGV[6], tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local now = now_ms()

local before = KEYS[2] and redis.call('GET', KEYS[2])
if before and redis.call('EXISTS', job_key(before)) == 1 then id = before end
local known = redis.call('HMGET', job_key(id), 'state', 'line')
if known[1] then return { 0, known[1], position(id, known[2]) or -1, id } end

local unfinished = tonumber(redis.call('HGET', UNFINISHED, client) or '0')
if ARGV[5] ~= '' and unfinished >= tonumber(ARGV[5]) then return { -2, '', unfinished, id } end
local waiting = redis.call('ZCARD', ready_key(line)) + redis.call('ZCARD', quarantined_key(line))
if waiting >= max_queued then return { -1, '', waiting, id } end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): S = max(V, F_flow), F_flow = S + work / weight; V is the start
-- tag of the job claimed last. Each of a client's priorities is a flow of its own: a job of a higher one overtakes the
-- client's own backlog, and no flow starves.
local share = ({ low = 0.25, normal = 1, high = 4 })[priority]
local weight = string.format('%.17g', tonumber(ARGV[7]) * share)
local flow, tags = priority .. ':' .. client, finish_tags_key(line)
local virtual = tonumber(redis.call('HGET', P .. 'virtual_time', line) or '0')
local start = math.max(virtual, tonumber(redis.call('HGET', tags, flow) or '0'))
if redis.call('HLEN', tags) > 256 + 2 * waiting then
  -- A tag in the past has no effect: the flow's next job starts at V anyway.
  local all = redis.call('HGETALL', tags)
  for i = 1, #all, 2 do
    if tonumber(all[i + 1]) <= virtual then redis.call('HDEL', tags, all[i]) end
  end
end
local score = string.format('%.17g', start)
redis.call('HSET', tags, flow, finish_tag(score, cost, pixels, weight))
redis.call('HSET', job_key(id), 'line', line, 'client', client, 'flow', flow, 'cost', cost, 'pixels', pixels, 'weight',
  weight, 'payload', ARGV[8], 'effort', ARGV[12], 'about', ARGV[13], 'request', ARGV[17], 'attempt', 0, 'lost', 0, 'score', score,
  'created_at', now)
if ARGV[14] ~= '' then
  local start_by = now + tonumber(ARGV[14])
  redis.call('HSET', job_key(id), 'start_by', start_by)
  redis.call('ZADD', UNSTARTED, start_by, id)
end
if ARGV[15] ~= '' then redis.call('HSET', job_key(id), 'webhook', ARGV[15]) end

-- The client's list: without jobs that have expired, and without the oldest of those that ended if it is too long. Each
-- job has a number of its own, so that a page may begin after any.
local list, ended = jobs_key(client), ended_key(client)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', ended, '-inf', now, 'LIMIT', 0, 64)) do
  redis.call('ZREM', list, gone)
  redis.call('ZREM', ended, gone)
end
if redis.call('ZCARD', list) >= tonumber(ARGV[16]) then
  local oldest = redis.call('ZPOPMIN', ended)[1]
  if oldest then redis.call('ZREM', list, oldest) end
end
local newest = redis.call('ZREVRANGE', list, 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', list, math.max(now, tonumber(newest or '0') + 1), id)
redis.call('PERSIST', list)
redis.call('PERSIST', ended)

redis.call('HINCRBY', UNFINISHED, client, 1)
redis.call('ZADD', UNENDED, now + held_ms, id)
redis.call('ZADD', LINES, 'NX', now, line)
for i = 18, #ARGV do
  let_blob_live(ARGV[i], now, held_ms)
  redis.call('SADD', blobs_key(id), ARGV[i])
end
if KEYS[2] then
  redis.call('SET', KEYS[2], id)
  redis.call('HSET', job_key(id), 'repeats', KEYS[2])
end
return { 1, 'queued', enqueue(id, line, 0), id }
