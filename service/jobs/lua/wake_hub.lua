-- wake_hub: ends a hub's read, so that the next one includes another job's stream.  ARGV: the hub's notifications.
redis.call('XADD', ARGV[1], 'MAXLEN', 1, '*', '', '')
return redis.call('EXPIRE', ARGV[1], 24 * 3600)
