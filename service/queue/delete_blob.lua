-- delete_blob: gives the bytes back to the budget.  ARGV: name.  Returns 1 if it was there.
local name = ARGV[1]
local size = redis.call('HGET', P .. 'blob_sizes', name)
if not size then return 0 end
redis.call('DECRBY', P .. 'blob_bytes', size)
redis.call('HDEL', P .. 'blob_sizes', name)
redis.call('ZREM', P .. 'blob_deadlines', name)
redis.call('DEL', P .. 'blob:' .. name)
return 1
