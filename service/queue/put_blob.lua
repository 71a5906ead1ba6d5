-- put_blob: stores bytes under a name if the byte budget allows; the same name again replaces.
-- ARGV: name, data, budget, ttl_ms.  Returns the bytes stored in all, or -1 when the store is full.
local name, data, now = ARGV[1], ARGV[2], now_ms()
local deadlines, sizes, total_key = P .. 'blob_deadlines', P .. 'blob_sizes', P .. 'blob_bytes'

local function forget(gone)
  redis.call('DECRBY', total_key, redis.call('HGET', sizes, gone) or 0)
  redis.call('HDEL', sizes, gone)
  redis.call('ZREM', deadlines, gone)
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now)) do forget(gone) end

local total = tonumber(redis.call('GET', total_key) or '0')
local replaced = tonumber(redis.call('HGET', sizes, name) or '0')
if total - replaced + #data > tonumber(ARGV[3]) then return -1 end
redis.call('SET', P .. 'blob:' .. name, data, 'PX', ARGV[4])
redis.call('HSET', sizes, name, #data)
redis.call('ZADD', deadlines, now + tonumber(ARGV[4]), name)
return redis.call('INCRBY', total_key, #data - replaced)
