-- Prelude of the stream scripts: where the stream's head is, in which epoch; and how long it is kept.
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

local function expire(key, ttl_ms)
  redis.call('PEXPIRE', key, string.format('%.0f', ttl_ms * 1.25))
end

-- Keep the stream for ttl_ms at least, and a quarter more at most: one look instead of three settings, nearly always. The
-- log's own expiry is looked at, since a log that has just been made has none.
local function keep_for(ttl_ms)
  if redis.call('PTTL', KEYS[2]) < tonumber(ttl_ms) then
    for i = 1, 3 do
      expire(KEYS[i], ttl_ms)
    end
  end
end
