-- Prelude of the stream scripts: where the stream's head is, in which epoch.
--
-- In:  RUN      constant put before this text: run id of the server process that the script was loaded into. Scripts
--               are neither replicated nor kept over a restart, so a script that runs here was loaded here, and
--               RUN tells truly which process this is.
--      KEYS[1]  meta hash {e: epoch, n: offset of the last event, r: run in which the epoch began}
--      KEYS[2]  log, KEYS[3] seen
--      fresh    the epoch to begin if one is needed
-- Out: epoch, offset. A new epoch begins when there is none, and when the epoch was begun by another
--      server process: its last writes may not have reached this one.
local function head(fresh)
  local meta = redis.call('HMGET', KEYS[1], 'e', 'n', 'r')
  if meta[1] and meta[3] == RUN then
    return meta[1], tonumber(meta[2])
  end
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'e', fresh, 'n', 0, 'r', RUN)
  return fresh, 0
end

local function keep_for(ttl_ms)
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
  redis.call('PEXPIRE', KEYS[2], ttl_ms)
  redis.call('PEXPIRE', KEYS[3], ttl_ms)
end

