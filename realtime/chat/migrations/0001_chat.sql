-- One-to-one conversations, their messages in server order, and each user's feed of them (docs/decisions/0053-chat-order.md).

-- How many messages a user's feed has. The row of each of the two is locked by a send until it commits, so positions
-- become visible in order: whoever sees position n sees every position below it.
create table realtime.chat_positions (
    user_id bigint primary key references realtime.users on delete cascade,
    pos bigint not null check (pos > 0)
) with (fillfactor = 50);

create table realtime.conversations (
    id uuid primary key,
    tenant_id int not null,
    last_seq bigint not null check (last_seq > 0),
    last_ts_ms bigint not null
) with (fillfactor = 70);

-- Each of the two as they see it: how far they have read, how much of the other's they have not.
create table realtime.conversation_members (
    user_id bigint not null references realtime.users on delete cascade,
    peer_id bigint not null references realtime.users on delete cascade,
    conversation_id uuid not null references realtime.conversations,
    read_seq bigint not null default 0,
    unread int not null default 0 check (unread >= 0),
    last_pos bigint not null,
    primary key (user_id, peer_id),
    check (user_id <> peer_id)
);
create unique index conversation_members_recent on realtime.conversation_members (user_id, last_pos);

-- `body` is opaque: what it holds is said by `kind`, and may be sealed by the devices.
create table realtime.messages (
    conversation_id uuid not null,
    seq bigint not null,
    id uuid not null,
    sender_id bigint not null,
    recipient_id bigint not null,
    kind text not null check (length(kind) between 1 and 32),
    body text not null check (octet_length(body) <= 32768),
    ts_ms bigint not null,
    primary key (conversation_id, seq)
);

create table realtime.chat_feed (
    user_id bigint not null,
    pos bigint not null,
    conversation_id uuid not null,
    seq bigint not null,
    primary key (user_id, pos)
);

-- Stores one message. In: tenant, sender, recipient, their conversation's id, the message's id, kind and body.
-- Out: its number in the conversation, and its time in unix ms, which never runs backwards in a conversation.
create function realtime.chat_send(
    p_tenant_id int, p_sender_id bigint, p_recipient_id bigint, p_conversation_id uuid, p_id uuid, p_kind text, p_body text,
    out seq bigint, out ts_ms bigint
) language plpgsql as $$
declare
    sender_pos bigint;
    recipient_pos bigint;
begin
    -- The lower id first, whoever sends: two who write to each other at the same moment wait, and never deadlock.
    with taken as (
        insert into realtime.chat_positions as p (user_id, pos)
        values (least(p_sender_id, p_recipient_id), 1), (greatest(p_sender_id, p_recipient_id), 1)
        on conflict (user_id) do update set pos = p.pos + 1
        returning p.user_id, p.pos
    )
    select max(t.pos) filter (where t.user_id = p_sender_id), max(t.pos) filter (where t.user_id = p_recipient_id)
    into sender_pos, recipient_pos from taken t;

    insert into realtime.conversations as c (id, tenant_id, last_seq, last_ts_ms)
    values (p_conversation_id, p_tenant_id, 1, floor(extract(epoch from clock_timestamp()) * 1000)::bigint)
    on conflict (id) do update
        set last_seq = c.last_seq + 1, last_ts_ms = greatest(c.last_ts_ms, excluded.last_ts_ms)
    returning c.last_seq, c.last_ts_ms into chat_send.seq, chat_send.ts_ms;

    insert into realtime.messages (conversation_id, seq, id, sender_id, recipient_id, kind, body, ts_ms)
    values (p_conversation_id, chat_send.seq, p_id, p_sender_id, p_recipient_id, p_kind, p_body, chat_send.ts_ms);

    insert into realtime.chat_feed (user_id, pos, conversation_id, seq)
    values (p_sender_id, sender_pos, p_conversation_id, chat_send.seq),
        (p_recipient_id, recipient_pos, p_conversation_id, chat_send.seq);

    insert into realtime.conversation_members as m (user_id, peer_id, conversation_id, unread, last_pos)
    values (p_sender_id, p_recipient_id, p_conversation_id, 0, sender_pos),
        (p_recipient_id, p_sender_id, p_conversation_id, 1, recipient_pos)
    on conflict (user_id, peer_id) do update set unread = m.unread + excluded.unread, last_pos = excluded.last_pos;
end
$$;

-- Moves a user's read cursor. In: user, peer, number up to which all is read. Out: the cursor when it moved, else null.
create function realtime.chat_read(p_user_id bigint, p_peer_id bigint, p_seq bigint) returns bigint
language plpgsql as $$
declare
    member realtime.conversation_members;
    last bigint;
    target bigint;
begin
    -- The feed's counter before the rest, as a send does it: one order of locks everywhere.
    perform from realtime.chat_positions where user_id = p_user_id for no key update;
    select * into member from realtime.conversation_members where user_id = p_user_id and peer_id = p_peer_id;
    if not found then
        return null;
    end if;
    select last_seq into last from realtime.conversations where id = member.conversation_id;
    target := least(p_seq, last);
    if target <= member.read_seq then
        return null;
    end if;
    update realtime.conversation_members
    set read_seq = target, unread = (
        select count(*) from realtime.messages
        where conversation_id = member.conversation_id and messages.seq > target and sender_id = p_peer_id
    )
    where user_id = p_user_id and peer_id = p_peer_id;
    return target;
end
$$;
