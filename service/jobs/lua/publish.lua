-- publish: renews leases and appends events for many jobs in one call. Returns cancel flags, and rejects attempts that
-- have lost their job.
-- ARGV: lease_ms, then id, attempt, sequence, event ('' = heartbeat), data per publication.
-- Returns ok | dup | lost | cancel per publication.
local now, lease_ms = now_ms(), tonumber(ARGV[1])
hear(now, lease_ms)
local standing, answers = {}, {}

-- For estimates: the steps at which this attempt's first and last tokens of a picture came, and when.
local function note_progress(id, attempt, data)
  local image, step, steps = string.match(data, '^{"image_index":(%d+),"step":(%d+),"steps":(%d+),')
  if not image then return end
  local field = 'progress:' .. image
  local of, first = string.match(redis.call('HGET', job_key(id), field) or '', '^(%d+) (%d+ %d+) ')
  if of ~= attempt then first = step .. ' ' .. now end
  redis.call('HSET', job_key(id), field, table.concat({ attempt, first, step, now, steps }, ' '))
end

for i = 2, #ARGV, 5 do
  local id, attempt, event = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local speaker = attempt .. ' ' .. id
  if not standing[speaker] then
    local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'cancel', 'line')
    if job[1] ~= 'running' or job[2] ~= attempt then
      absolve(id, attempt)
      standing[speaker] = 'lost'
    else
      redis.call('ZADD', leases_key(job[4]), now + lease_ms, id)
      standing[speaker] = job[3] and 'cancel' or 'ok'
    end
  end
  local answer = standing[speaker]
  if answer ~= 'lost' and event ~= '' then
    local reply = redis.pcall('XADD', events_key(id), attempt .. '-' .. ARGV[i + 2],
      'event', event, 'data', ARGV[i + 4])
    if type(reply) == 'table' and reply.err then
      -- The stream rejects an id that it has already; any other error goes to the caller.
      if not string.find(reply.err, 'equal or smaller', 1, true) then return reply end
      if answer == 'ok' then answer = 'dup' end
    elseif event == 'tokens' then
      note_progress(id, attempt, ARGV[i + 4])
    elseif event == 'preview' then
      -- A preview replaces the picture's previous preview: a stream holds one for each picture.
      local image = string.match(ARGV[i + 4], '"image_index":(%d+)') or ''
      local before = redis.call('HGET', previews_key(id), image)
      if before then redis.call('XDEL', events_key(id), before) end
      redis.call('HSET', previews_key(id), image, reply)
    end
  end
  answers[#answers + 1] = answer
end
return answers
