-- Change a user's presence record in one step, and tell how it was before.
--
-- In:  KEYS[1]  hash of the user: t tenant, x external id, h 1 for a host, m mode, b busy, r reserved, p push reachable,
--               s last seen (unix ms), v version, o tokens issued before this unix ms are refused, c:<node>:<connection> = device, a:<device> = 1 when set to away
--      ARGV[1]  milliseconds after which an untouched record is forgotten
--      ARGV[2..] steps of three: 'set' field value | 'new' field value (only where it is missing) | 'del' field '' |
--               'at' '' version (skip the steps that follow unless this is the record's version) |
--               'touch' '' '' (count as a change) | 'cut' prefix '' (delete every field that begins so) | 'seen' '' ms (last seen; '' means now)
-- Out: {changed 0 or 1, {field, value, ...} before, {field, value, ...} after}. The version grows with every change, and
--      with the clock, so that it goes on growing after all of Redis was lost.
local before = redis.call('HGETALL', KEYS[1])
local had = {}
for i = 1, #before, 2 do
  had[before[i]] = before[i + 1]
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local changed = 0

local function put(field, value)
  if had[field] ~= value then
    redis.call('HSET', KEYS[1], field, value)
    had[field] = value
    changed = 1
  end
end

local function drop(field)
  if had[field] then
    redis.call('HDEL', KEYS[1], field)
    had[field] = nil
    changed = 1
  end
end

for i = 2, #ARGV, 3 do
  local step, field, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if step == 'at' then
    if had['v'] ~= value then break end
  elseif step == 'set' then
    put(field, value)
  elseif step == 'new' then
    if not had[field] then put(field, value) end
  elseif step == 'touch' then
    changed = 1
  elseif step == 'del' then
    drop(field)
  elseif step == 'cut' then
    for name in pairs(had) do
      if name:sub(1, #field) == field then drop(name) end
    end
  elseif step == 'seen' then
    local at = string.format('%.0f', value == '' and now or math.max(tonumber(value), tonumber(had['s'] or 0)))
    redis.call('HSET', KEYS[1], 's', at)  -- no change of state by itself
    had['s'] = at
  end
end

if changed == 1 then
  -- In microseconds, which no record can outrun by being changed.
  local version = math.max(time[1] * 1000000 + time[2], tonumber(had['v'] or 0) + 1)
  redis.call('HSET', KEYS[1], 'v', string.format('%.0f', version))
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {changed, before, redis.call('HGETALL', KEYS[1])}
