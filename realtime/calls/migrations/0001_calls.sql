-- Calls, and the lock that keeps every user in one call at a time.

create table realtime.calls (
    id uuid primary key,                    -- the meter's id too
    tenant_id int not null,
    caller_id bigint not null,              -- pays
    host_id bigint not null,                -- earns
    media text not null check (media in ('voice', 'video')),
    price_coins bigint not null check (price_coins >= 0),
    pulse_ms int not null check (pulse_ms > 0),
    state text not null check (state in ('inviting', 'ringing', 'accepted', 'connected', 'ended')),
    reason text check (reason in (
        'declined', 'cancelled', 'missed', 'unreachable', 'hung_up_by_caller', 'hung_up_by_host',
        'insufficient_funds', 'exhausted', 'lost', 'failed')),
    v bigint not null check (v > 0),
    created_ms bigint not null,
    ringing_ms bigint,
    accepted_ms bigint,
    connected_ms bigint,
    ended_ms bigint,
    ring_by_ms bigint not null,             -- end of ringing whatever happens
    deadline_ms bigint,                     -- when any node has to look at it
    pushable boolean not null,
    caller_device text,
    accepted_device text,
    caller_media boolean not null default false,
    host_media boolean not null default false,
    paused boolean not null default false,
    funded_until_ms bigint,
    periods int not null default 0 check (periods >= 0),
    spent_coins bigint not null default 0 check (spent_coins >= 0),
    earned_coins bigint not null default 0 check (earned_coins >= 0),
    check (caller_id <> host_id),
    -- A live call always has a deadline, and only an ended one has a reason and an end: nothing stays stuck unseen.
    check ((state = 'ended') = (reason is not null)),
    check ((state = 'ended') = (ended_ms is not null)),
    check ((state = 'ended') = (deadline_ms is null)),
    check (state not in ('accepted', 'connected') or (accepted_ms is not null and accepted_device is not null)),
    check (state <> 'connected' or connected_ms is not null),
    check (spent_coins = 0 or connected_ms is not null)
) with (fillfactor = 80);

create index calls_due on realtime.calls (deadline_ms) where deadline_ms is not null;
create index calls_of_caller on realtime.calls (caller_id, id desc);
create index calls_of_host on realtime.calls (host_id, id desc);

-- One terminal state: what has ended is never changed again, sides and prices never at all, versions only grow.
create function realtime.calls_guard() returns trigger language plpgsql as $$
begin
    if old.state = 'ended' then
        raise exception 'call % has ended (%)', old.id, old.reason using errcode = 'object_not_in_prerequisite_state';
    end if;
    if (new.id, new.tenant_id, new.caller_id, new.host_id, new.price_coins, new.pulse_ms, new.created_ms)
        is distinct from
        (old.id, old.tenant_id, old.caller_id, old.host_id, old.price_coins, old.pulse_ms, old.created_ms)
        or new.v < old.v
    then
        raise exception 'call %: identity, sides and price are fixed, and its version only grows', old.id
            using errcode = 'integrity_constraint_violation';
    end if;
    return new;
end
$$;
create trigger calls_guard before update on realtime.calls for each row execute function realtime.calls_guard();

-- One row for each user in a live call, whichever the side. Both rows of a call are inserted in the order of user ids
-- by the invite's transaction, and deleted by the terminal one.
create table realtime.busy (
    user_id bigint primary key,
    tenant_id int not null,
    call_id uuid not null references realtime.calls on delete cascade
);
create index busy_call on realtime.busy (call_id);
