-- Say that a node lives, and learn which others do.
--
-- In:  KEYS[1]  sorted set of nodes by the unix ms until which they count as alive
--      ARGV[1]  node
--      ARGV[2]  milliseconds until it counts as dead
-- Out: {known 0 or 1, {alive node, ...}, {dead node, its unix ms, ...}}. known is 0 when the node was missing or counted
--      as dead: what it has registered may be gone. Then nothing is written, and the node comes back under a new name.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = redis.call('ZSCORE', KEYS[1], ARGV[1])
local known = 0
if mine and tonumber(mine) > now then
  known = 1
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
end
return {
  known,
  redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf'),
  redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'WITHSCORES'),
}
