-- webhooks/claim: hands out the webhooks that are to be called now, and defers each by the time that a call may take:
-- if the replica is gone by then, another one calls. No client has more than its share of a replica's calls.
-- ARGV: limit, hold_ms, calls that a client may have under way, then client and calls under way of each that has any.
-- Returns {the calls: id, client, url, tries}, how many jobs expired before their webhook was delivered}.
local limit, hold_ms, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now, under_way, calls, gone = now_ms(), {}, {}, 0
for i = 4, #ARGV, 2 do under_way[ARGV[i]] = tonumber(ARGV[i + 1]) end

local function take(id, client)
  local url = redis.call('HGET', job_key(id), 'webhook')
  if not url then
    redis.call('ZREM', webhooks_key(client), id)
    gone = gone + 1
    return
  end
  redis.call('ZADD', webhooks_key(client), now + hold_ms, id)
  calls[#calls + 1] = { id, client, url, redis.call('HINCRBY', job_key(id), 'webhook_tries', 1) }
end

for _, client in ipairs(redis.call('ZRANGEBYSCORE', WEBHOOKS, '-inf', now, 'LIMIT', 0, 1000)) do
  local room = math.min(limit - #calls, most - (under_way[client] or 0))
  if room > 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', webhooks_key(client), '-inf', now, 'LIMIT', 0, room)) do
      take(id, client)
    end
    schedule_webhooks(client)
  end
end
return { calls, gone }
