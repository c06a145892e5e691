-- Put a host into a tenant's directory, or take her out, unless what is there is newer.
--
-- In:  KEYS     cards hash (host -> card), rank sorted set, price sorted set, facets hash (host -> her facets, joined by
--               newlines), versions hash
--      ARGV[1]  host; ARGV[2] version; ARGV[3] card, empty to take her out
--      ARGV[4]  rank score; ARGV[5] price in coins
--      ARGV[6]  prefix of the facets' sets; ARGV[7..] her facets, each the name of a set below the prefix
-- Out: 1 when done, 0 when it was older than what is there
local host, version = ARGV[1], tonumber(ARGV[2])
local last = redis.call('HGET', KEYS[5], host)
if last and tonumber(last) > version then
  return 0
end
redis.call('HSET', KEYS[5], host, ARGV[2])
local old = redis.call('HGET', KEYS[4], host)
if old then
  for facet in old:gmatch('[^\n]+') do
    redis.call('SREM', ARGV[6] .. facet, host)
  end
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], host)
  redis.call('ZREM', KEYS[2], host)
  redis.call('ZREM', KEYS[3], host)
  redis.call('HDEL', KEYS[4], host)
  return 1
end
redis.call('HSET', KEYS[1], host, ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], host)
redis.call('ZADD', KEYS[3], ARGV[5], host)
local facets = {}
for i = 7, #ARGV do
  redis.call('SADD', ARGV[6] .. ARGV[i], host)
  facets[#facets + 1] = ARGV[i]
end
redis.call('HSET', KEYS[4], host, table.concat(facets, '\n'))
return 1
