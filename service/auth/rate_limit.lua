#!lua flags=allow-oom
-- Takes a token from a bucket. KEYS: the bucket. ARGV: its size, and the milliseconds in which an empty bucket fills.
-- It runs while the server is at its maxmemory, so that a full server can still be read; a bucket is small and expires.
-- Returns: 1 if there was a token, else 0; tokens left; milliseconds until the next token, and until it is full.
local size, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = size
if held[1] then
  tokens = math.min(size, tonumber(held[1]) + math.max(0, now - tonumber(held[2])) * size / window)
end
local taken = 0
if tokens >= 1 then
  tokens, taken = tokens - 1, 1
end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', now)
redis.call('PEXPIRE', KEYS[1], window)
local missing = math.max(0, 1 - tokens)
return { taken, math.floor(tokens), math.ceil(missing * window / size), math.ceil((size - tokens) * window / size) }
