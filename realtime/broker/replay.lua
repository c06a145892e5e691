-- Return what a reader at a position has missed.
--
-- In:  KEYS     meta, log, seen
--      ARGV[1]  epoch to begin if one is needed
--      ARGV[2]  the reader's epoch, empty when it has none
--      ARGV[3]  the reader's offset
--      ARGV[4]  events to return at most
--      ARGV[5]  milliseconds that an untouched stream is kept for at least
-- Out: {epoch, head, recovered 0 or 1, entry, entry, ...}: the entries follow the reader's offset without a gap up to
--      the head, or recovered is 0: another epoch, an offset beyond the head, too much missed, or trimmed away.
local epoch, offset = head(ARGV[1])
local from = tonumber(ARGV[3])
keep_for(ARGV[5])
if epoch ~= ARGV[2] or from > offset or offset - from > tonumber(ARGV[4]) then
  return {epoch, offset, 0}
end
local out = {epoch, offset, 1}
if from < offset then
  local rows = redis.call('XRANGE', KEYS[2], string.format('%.0f', from + 1), '+')
  if #rows ~= offset - from then
    return {epoch, offset, 0}
  end
  for i = 1, #rows do
    out[i + 3] = rows[i][2][2]
  end
end
return out
