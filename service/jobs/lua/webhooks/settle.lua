-- webhooks/settle: a webhook was called. It is delivered or failed for good, or it is called again later, unless its
-- job expires before that.
-- ARGV: id, client, delivered | failed | pending, wait_ms, what went wrong ('' = nothing).
-- Returns delivered | failed | pending, as it is now; settled: another replica said so before.
local id, client, state, wait_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local due = webhooks_key(client)
if not redis.call('ZSCORE', due, id) then return 'settled' end

local left_ms = redis.call('PTTL', job_key(id)) -- -2: it has expired
if state == 'pending' and left_ms <= wait_ms then state = 'failed' end
if state == 'pending' then redis.call('ZADD', due, now_ms() + wait_ms, id) else redis.call('ZREM', due, id) end
if left_ms ~= -2 then redis.call('HSET', job_key(id), 'webhook_state', state, 'webhook_error', ARGV[5]) end
schedule_webhooks(client)
return state
