-- put_card: stores or renews a worker's card. A full server keeps the cards of its workers: else the API would say that
-- no worker is alive.  ARGV: worker, card, ttl_ms.
redis.call('SET', P .. 'card:' .. ARGV[1], ARGV[2], 'PX', ARGV[3])
return redis.call('SADD', P .. 'workers', ARGV[1])
