-- Take one token from a user's bucket of an action, or say how long to wait.
--
-- In:  KEYS[1]  the bucket: microseconds of this server's clock at which it is full; forgotten once it is
--      ARGV[1]  microseconds that one token takes
--      ARGV[2]  microseconds that the whole bucket takes
-- Out: 0, or milliseconds until a token is there; a refusal takes nothing
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + tonumber(ARGV[1])
local over = full_at - now - tonumber(ARGV[2])
if over > 0 then
  return math.floor(over / 1000) + 1
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return 0
