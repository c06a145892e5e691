-- Statements of realtime/push/store.py.

-- name: insert
-- In: ids, tenants, users, kinds, things, event ids, args as JSON, devices to leave out, expiries in unix ms, and now.
-- Out: the ids of those that are new; the rest had been told already.
insert into realtime.pushes (
    id, tenant_id, user_id, kind, thing, event_id, args, except_device, queued_ms, expires_ms
)
select id, tenant_id, user_id, kind, thing, event_id, args, except_device, $10, expires_ms
from unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::uuid[], $7::jsonb[], $8::text[], $9::bigint[])
    as p (id, tenant_id, user_id, kind, thing, event_id, args, except_device, expires_ms)
order by user_id, kind, thing
on conflict (user_id, kind, thing) do nothing
returning id

-- name: cancel
-- In: users, kinds and things, triplewise. Out: user and thing of those that may have gone out already.
with gone as (
    update realtime.pushes p set cancelled = true
    from unnest($1::bigint[], $2::text[], $3::text[]) as c (user_id, kind, thing)
    where p.user_id = c.user_id and p.kind = c.kind and p.thing = c.thing and not p.cancelled
    returning p.user_id, p.thing, p.state
)
select user_id, thing from gone where state in ('sending', 'sent')

-- name: mutes
-- In: users. Out: user and category of what they have muted.
select user_id, category from realtime.push_mutes where user_id = any($1::bigint[])

-- name: claim
-- In: ids. Out: the pushes of them that are still to be sent, now marked as being sent; `confirmed` when a socket has
-- taken the event meanwhile.
with claimed as (
    update realtime.pushes set state = 'sending'
    where id = any($1::uuid[]) and state in ('queued', 'sending') and not cancelled
    returning id, tenant_id, user_id, kind, thing, event_id, args, except_device, expires_ms
)
select c.*, exists (
    select from realtime.push_receipts r where r.event_id = c.event_id and r.user_id = c.user_id
) as confirmed
from claimed c order by c.id

-- name: delivered
-- In: push ids. Out: push and device of those deliveries that need no further attempt.
select push_id, device_id, state from realtime.push_deliveries where push_id = any($1::uuid[])

-- name: record
-- In: push ids, device ids, states, service ids, errors, elementwise, and now in unix ms.
insert into realtime.push_deliveries (push_id, device_id, state, service_id, error, sent_ms)
select d.push_id, d.device_id, d.state, nullif(d.service_id, ''), nullif(d.error, ''), $6
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
    as d (push_id, device_id, state, service_id, error)
on conflict (push_id, device_id) do nothing

-- name: settle
-- In: push ids and states, pairwise. Ends those that are being sent.
update realtime.pushes p set state = s.state
from unnest($1::uuid[], $2::text[]) as s (id, state)
where p.id = s.id and p.state in ('queued', 'sending')

-- name: confirm
-- In: user, event ids, now in unix ms. A device has taken these events over its socket.
insert into realtime.push_receipts (event_id, user_id, at_ms)
select event_id, $1, $3 from unnest($2::uuid[]) as e (event_id)
on conflict do nothing

-- name: report
-- In: push, user, device, state (received, shown or acted), now in unix ms. Out: 1 when there was such a delivery.
-- A later state implies the earlier ones, and a report that comes late takes nothing back.
update realtime.push_deliveries d set
    state = case
        when $4 = 'acted' or (d.state <> 'acted' and ($4 = 'shown' or d.state not in ('received', 'shown'))) then $4
        else d.state
    end,
    received_ms = coalesce(d.received_ms, $5),
    shown_ms = case when $4 in ('shown', 'acted') then coalesce(d.shown_ms, $5) else d.shown_ms end,
    acted_ms = case when $4 = 'acted' then coalesce(d.acted_ms, $5) else d.acted_ms end
from realtime.pushes p
where d.push_id = $1 and p.id = d.push_id and p.user_id = $2 and d.device_id = $3
returning 1

-- name: mute
-- In: user, category.
insert into realtime.push_mutes (user_id, category) values ($1, $2) on conflict do nothing

-- name: unmute
-- In: user, category.
delete from realtime.push_mutes where user_id = $1 and category = $2

-- name: purge_pushes
-- In: unix ms, limit. Out: number of pushes from before that are deleted, with their deliveries.
with gone as (
    delete from realtime.pushes where ctid = any(array(
        select ctid from realtime.pushes where queued_ms < $1 limit $2
    )) returning 1
)
select count(*) from gone

-- name: purge_receipts
-- In: unix ms, limit. Out: number of receipts from before that are deleted.
with gone as (
    delete from realtime.push_receipts where ctid = any(array(
        select ctid from realtime.push_receipts where at_ms < $1 limit $2
    )) returning 1
)
select count(*) from gone

-- name: purge_queue_log
-- In: days, limit. Out: number of the queue's log entries older than that which are deleted.
with gone as (
    delete from realtime.pgqueuer_log where ctid = any(array(
        select ctid from realtime.pgqueuer_log where created < now() - make_interval(days => $1) limit $2
    )) returning 1
)
select count(*) from gone
