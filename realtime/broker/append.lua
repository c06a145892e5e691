-- Append events to one stream and publish them, in one step; drop those that the stream has seen.
--
-- In:  KEYS     meta, log, seen, channel
--      ARGV[1]  epoch to begin if one is needed
--      ARGV[2]  events that the log keeps at least (it is trimmed in whole blocks)
--      ARGV[3]  milliseconds that an untouched stream is kept for at least
--      ARGV[4]  PUBLISH, or SPUBLISH on a cluster
--      ARGV[5..] event id, entry; event id, entry; ... An empty id is one that nobody will repeat: it is not remembered.
-- Out: {epoch, offset of the first event, receivers of it, offset of the second, ...}; receivers is -1 for an event
--      that was seen before (its offset is the one that it has).
local SEEN_BLOCK = 64 -- ids are forgotten in blocks of so many events, too
local epoch, before = head(ARGV[1])
local offset = before
local keep = tonumber(ARGV[2])
local out = {epoch}
local remembered = false
for i = 5, #ARGV, 2 do
  local id, entry = ARGV[i], ARGV[i + 1]
  local at = id ~= '' and redis.call('ZSCORE', KEYS[3], id)
  if at then
    out[#out + 1] = tonumber(at)
    out[#out + 1] = -1
  else
    offset = offset + 1
    local place = string.format('%.0f', offset)
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', keep, place .. '-0', 'e', entry)
    if id ~= '' then
      redis.call('ZADD', KEYS[3], place, id)
      remembered = true
    end
    out[#out + 1] = offset
    out[#out + 1] = redis.call(ARGV[4], KEYS[4], epoch .. ' ' .. place .. ' ' .. entry)
  end
end
if offset > before then
  redis.call('HSET', KEYS[1], 'n', string.format('%.0f', offset))
  if offset > keep and math.floor(offset / SEEN_BLOCK) > math.floor(before / SEEN_BLOCK) then
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', offset - keep))
  end
end
if remembered then
  expire(KEYS[3], ARGV[3]) -- it may have just been made
end
keep_for(ARGV[3])
return out
