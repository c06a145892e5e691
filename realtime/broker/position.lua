-- Return where a stream's head is, and keep the stream from being forgotten while somebody listens to it.
--
-- In:  KEYS     meta, log, seen
--      ARGV[1]  epoch to begin if one is needed
--      ARGV[2]  milliseconds that an untouched stream is kept for at least
-- Out: {epoch, head}
local epoch, offset = head(ARGV[1])
keep_for(ARGV[2])
return {epoch, offset}
