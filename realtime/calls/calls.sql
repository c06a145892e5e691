-- Statements of realtime/calls/store.py. Times are unix milliseconds.

-- name: now_ms
-- Out: the database's clock.
select (extract(epoch from clock_timestamp()) * 1000)::bigint

-- name: take_busy
-- In: tenant, two users in ascending order, call. Out: the users that were free and are now taken by this call.
-- Waits for a transaction that is taking or freeing one of them. Fewer than two rows: roll back.
insert into realtime.busy (tenant_id, user_id, call_id)
select $1, u.user_id, $3 from unnest($2::bigint[]) with ordinality as u (user_id, n) order by u.n
on conflict do nothing
returning user_id

-- name: insert_call
-- In: the columns of a new call.
insert into realtime.calls (id, tenant_id, caller_id, host_id, media, price_coins, pulse_ms, state, v, created_ms,
    ring_by_ms, deadline_ms, pushable, caller_device)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- name: get_call
-- In: call. Out: its row, or nothing.
select * from realtime.calls where id = $1

-- name: lock_call
-- In: call. Out: its row, locked against other changes, or nothing.
select * from realtime.calls where id = $1 for no key update

-- name: lock_calls
-- In: calls. Out: their rows, locked in the order of ids.
select * from realtime.calls where id = any($1::uuid[]) order by id for no key update

-- name: claim_due
-- In: now, limit. Out: live calls whose deadline has passed, locked; those that others work on are left out.
select * from realtime.calls where deadline_ms <= $1 order by deadline_ms limit $2 for no key update skip locked

-- name: postpone
-- In: live calls, their new deadline.
update realtime.calls set deadline_ms = $2 where id = any($1::uuid[]) and state <> 'ended'

-- name: ms_to_deadline
-- Out: milliseconds until the earliest deadline of all live calls (negative: it has passed), or null.
select min(deadline_ms) - (extract(epoch from clock_timestamp()) * 1000)::bigint
from realtime.calls where deadline_ms is not null

-- name: save_calls
-- In: what may change of each call, one array a column. Out: number saved. The users of ended ones are free again.
with saved as (
    update realtime.calls c set
        state = n.state, reason = n.reason, v = n.v, ringing_ms = n.ringing_ms, accepted_ms = n.accepted_ms,
        connected_ms = n.connected_ms, ended_ms = n.ended_ms, deadline_ms = n.deadline_ms,
        accepted_device = n.accepted_device, caller_media = n.caller_media, host_media = n.host_media,
        paused = n.paused, funded_until_ms = n.funded_until_ms, periods = n.periods, spent_coins = n.spent_coins,
        earned_coins = n.earned_coins
    from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::text[], $11::bool[], $12::bool[], $13::bool[], $14::bigint[], $15::int[],
        $16::bigint[], $17::bigint[])
        as n (id, state, reason, v, ringing_ms, accepted_ms, connected_ms, ended_ms, deadline_ms, accepted_device,
            caller_media, host_media, paused, funded_until_ms, periods, spent_coins, earned_coins)
    where c.id = n.id
    returning c.id, c.state
), freed as (
    delete from realtime.busy b using saved s where b.call_id = s.id and s.state = 'ended'
)
select count(*) from saved

-- name: live_calls_of
-- In: users. Out: the live calls they are in.
select c.* from realtime.busy b join realtime.calls c on c.id = b.call_id where b.user_id = any($1::bigint[])

-- name: busy_of
-- In: users. Out: those of them that are in a live call.
select user_id from realtime.busy where user_id = any($1::bigint[])

-- name: recent_invites
-- In: caller, an id of the moment from which to count (ids are time-ordered), how many at most.
-- Out: how many calls the caller began since, and when the first of these was.
select count(*) as invites, min(created_ms) as first_ms from (
    select created_ms from realtime.calls where caller_id = $1 and id > $2 order by id desc limit $3
) recent

-- name: history
-- In: user, id of the last call seen or null, limit. Out: that user's ended calls, newest first.
select * from (
    (select * from realtime.calls
        where caller_id = $1 and state = 'ended' and ($2::uuid is null or id < $2) order by id desc limit $3)
    union all
    (select * from realtime.calls
        where host_id = $1 and state = 'ended' and ($2::uuid is null or id < $2) order by id desc limit $3)
) mine order by id desc limit $3
