-- Who is in a channel, over all nodes: enter, leave, and drop what nodes have not confirmed for too long.
--
-- In:  KEYS[1]  sorted set of `<node>|<user>` by the unix ms until which the node's word counts
--      KEYS[2]  hash of user -> number of nodes that have the user in the channel
--      ARGV[1]  node; ARGV[2] milliseconds for which its word counts
--      ARGV[3]  number of users that enter or are confirmed, n; ARGV[4..3+n] these users; the rest are users that leave
-- Out: {users in the channel, {users who are new}, {users who are gone}}: new and gone by this step, whichever node had them
local node = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local joined, left = {}, {}

local function drop(member, user)
  if redis.call('ZREM', KEYS[1], member) == 1 and redis.call('HINCRBY', KEYS[2], user, -1) <= 0 then
    redis.call('HDEL', KEYS[2], user)
    left[#left + 1] = user
  end
end

local entering = tonumber(ARGV[3])
for i = 4, 3 + entering do
  local user = ARGV[i]
  if redis.call('ZADD', KEYS[1], now + ARGV[2], node .. '|' .. user) == 1
    and redis.call('HINCRBY', KEYS[2], user, 1) == 1 then
    joined[#joined + 1] = user
  end
end
for i = 4 + entering, #ARGV do
  drop(node .. '|' .. ARGV[i], ARGV[i])
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 1000)) do
  drop(member, member:sub(member:find('|', 1, true) + 1))
end
-- When every node has gone, nobody clears up; the keys do it themselves.
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
redis.call('PEXPIRE', KEYS[2], ARGV[2] * 2)
return {redis.call('HLEN', KEYS[2]), joined, left}
