-- Enter a node into the list of those that live.
--
-- In:  KEYS[1]  sorted set of nodes; ARGV[1] node; ARGV[2] milliseconds until it counts as dead
-- Out: 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return 1
