-- submit: a new job into its model's ready set. A known id gives the state it has: a repeat is harmless.
-- ARGV: id, model, client, cost, weight, payload, max_queued, held_ms, then the names of the blobs that the job holds
-- until it ends.  Returns {created, state, jobs ahead | -1}.
local id, model, client = ARGV[1], ARGV[2], ARGV[3]

local known = redis.call('HMGET', job_key(id), 'state', 'model')
if known[1] then
  return { 0, known[1], redis.call('ZRANK', ready_key(known[2]), id) or -1 }
end

local queued = redis.call('ZCARD', ready_key(model))
if queued >= tonumber(ARGV[7]) then return { -1, 'full', queued } end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): S = max(V, F_client), F_client = S + cost / weight;
-- V is the start tag of the job claimed last.
local tags = finish_tags_key(model)
local virtual = tonumber(redis.call('HGET', P .. 'virtual_time', model) or '0')
local start = math.max(virtual, tonumber(redis.call('HGET', tags, client) or '0'))
if redis.call('HLEN', tags) > 256 + 2 * queued then
  -- A tag in the past says nothing any more: the client's next job starts at V all the same.
  local all = redis.call('HGETALL', tags)
  for i = 1, #all, 2 do
    if tonumber(all[i + 1]) <= virtual then redis.call('HDEL', tags, all[i]) end
  end
end
local score = string.format('%.17g', start)
redis.call('HSET', tags, client, finish_tag(score, ARGV[4], ARGV[5]))
redis.call('HSET', job_key(id), 'model', model, 'client', client, 'cost', ARGV[4], 'weight', ARGV[5],
  'payload', ARGV[6], 'state', 'queued', 'attempt', 0, 'lost', 0, 'score', score, 'created_at', now_ms())
redis.call('SADD', P .. 'models', model)
for i = 9, #ARGV do
  let_blob_live(ARGV[i], now_ms(), tonumber(ARGV[8]))
  redis.call('SADD', blobs_key(id), ARGV[i])
end
return { 1, 'queued', enqueue(id, model, 0, score) }
