-- Find hosts in a tenant's directory: best rank first, a page at a time.
--
-- In:  KEYS     cards hash, rank sorted set, price sorted set, a key for the intermediate result
--      ARGV[1]  rank below which the page begins, '+inf' for the first
--      ARGV[2]  hosts on a page
--      ARGV[3]  highest price in coins, '+inf' for any
--      ARGV[4]  hosts to look at, at most: a price that nobody asks must not hold up the server
--      ARGV[5]  prefix of the facets' sets
--      ARGV[6..] groups of facets: a number n, then n names; a host must have one of each group
-- Out: {rank below which the next page begins or '' when there is none, host, card, host, card, ...}; a page that is not
--      full may have a next one, when enough hosts were looked at
local found = KEYS[2]
local narrow = {}
local i = 6
while i <= #ARGV do
  local names = {}
  for j = 1, tonumber(ARGV[i]) do
    names[j] = ARGV[5] .. ARGV[i + j]
  end
  i = i + #names + 1
  if #names == 1 then
    narrow[#narrow + 1] = names[1]
  else
    local union = KEYS[4] .. ':' .. #narrow
    redis.call('SUNIONSTORE', union, unpack(names))
    narrow[#narrow + 1] = union
  end
end
if #narrow > 0 then
  local weights = {1}
  for n = 1, #narrow do
    weights[n + 1] = 0
  end
  local command = {'ZINTERSTORE', KEYS[4], #narrow + 1, KEYS[2]}
  for n = 1, #narrow do
    command[#command + 1] = narrow[n]
  end
  command[#command + 1] = 'WEIGHTS'
  for n = 1, #weights do
    command[#command + 1] = weights[n]
  end
  redis.call(unpack(command))
  found = KEYS[4]
end

local limit = tonumber(ARGV[2])
local highest = ARGV[3] ~= '+inf' and tonumber(ARGV[3]) or math.huge
local out, last, more = {''}, '', false
local below = ARGV[1] == '+inf' and '+inf' or '(' .. ARGV[1]
local taken, seen = 0, 0
local most = tonumber(ARGV[4])
while not more do
  -- One more than asked for tells whether there is a further page.
  local rows = redis.call('ZREVRANGEBYSCORE', found, below, '-inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
  if #rows == 0 then
    break
  end
  for r = 1, #rows, 2 do
    local host, rank = rows[r], rows[r + 1]
    local price = tonumber(redis.call('ZSCORE', KEYS[3], host) or 0)
    if price <= highest then
      if taken == limit then
        more = true
        break
      end
      taken = taken + 1
      last = rank
      out[#out + 1] = host
      out[#out + 1] = redis.call('HGET', KEYS[1], host) or ''
    end
    below = '(' .. rank
    seen = seen + 1
    if seen == most then
      last, more = rank, true
      break
    end
  end
end
out[1] = more and last or ''
if #narrow > 0 then
  redis.call('UNLINK', KEYS[4])
  for n = 1, #narrow do
    redis.call('UNLINK', KEYS[4] .. ':' .. (n - 1))
  end
end
return out
