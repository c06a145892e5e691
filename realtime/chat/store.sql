-- Statements of realtime/chat/store.py.

-- name: send
-- In: tenant, sender, recipient, conversation, message id, kind, body. Out: seq, ts_ms.
select seq, ts_ms from realtime.chat_send($1, $2, $3, $4, $5, $6, $7)

-- name: read
-- In: user, peer, seq. Out: the read cursor when it moved, else null.
select realtime.chat_read($1, $2, $3)

-- name: feed
-- In: user, position after which to begin, limit. Out: messages in the order of the user's feed, with their positions.
select f.pos, m.id, m.conversation_id, m.seq, m.sender_id, m.recipient_id, m.kind, m.body, m.ts_ms
from realtime.chat_feed f join realtime.messages m on m.conversation_id = f.conversation_id and m.seq = f.seq
where f.user_id = $1 and f.pos > $2
order by f.pos limit $3

-- name: before
-- In: conversation, seq below which to look, limit. Out: messages, newest first.
select id, conversation_id, seq, sender_id, recipient_id, kind, body, ts_ms from realtime.messages
where conversation_id = $1 and seq < $2 order by seq desc limit $3

-- name: after
-- In: conversation, seq above which to look, limit. Out: messages, oldest first.
select id, conversation_id, seq, sender_id, recipient_id, kind, body, ts_ms from realtime.messages
where conversation_id = $1 and seq > $2 order by seq limit $3

-- name: conversations
-- In: user, position below which to look, limit. Out: conversations, the one with the latest message first: what the
-- user and the peer have read, how much is unread, and the last message.
select mine.last_pos, mine.peer_id, mine.unread, mine.read_seq, theirs.read_seq as peer_read_seq,
    m.id, m.conversation_id, m.seq, m.sender_id, m.recipient_id, m.kind, m.body, m.ts_ms
from realtime.conversation_members mine
join realtime.conversation_members theirs on theirs.user_id = mine.peer_id and theirs.peer_id = mine.user_id
join realtime.conversations c on c.id = mine.conversation_id
join realtime.messages m on m.conversation_id = c.id and m.seq = c.last_seq
where mine.user_id = $1 and mine.last_pos < $2
order by mine.last_pos desc limit $3

-- name: position
-- In: user. Out: the head of the user's feed, or null before the first message.
select pos from realtime.chat_positions where user_id = $1

-- name: unread
-- In: user. Out: how many messages of others the user has not read.
select coalesce(sum(unread), 0)::bigint from realtime.conversation_members where user_id = $1
