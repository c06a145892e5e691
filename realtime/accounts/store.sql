-- Statements of realtime/accounts/store.py.

-- name: ensure_tenant
-- In: external id. Out: id of the tenant, made now when it is new.
with made as (
    insert into realtime.tenants (external_id) select $1
    where not exists (select from realtime.tenants where external_id = $1)
    on conflict (external_id) do nothing
    returning id
)
select id from made union all select id from realtime.tenants where external_id = $1 limit 1

-- name: find_user
-- In: tenant, external id. Out: the user's row, or nothing.
select id, tenant_id, external_id, name, avatar_url, tokens_valid_from_ms
from realtime.users where tenant_id = $1 and external_id = $2

-- name: insert_user
-- In: tenant, external id, name. Out: the new row, or nothing when somebody else has just made it.
insert into realtime.users (tenant_id, external_id, name) values ($1, $2, $3)
on conflict (tenant_id, external_id) do nothing
returning id, tenant_id, external_id, name, avatar_url, tokens_valid_from_ms

-- name: sign_in
-- In: arrays, one element for each sign-in, no user twice: tenants, external ids, device ids, platforms, app versions,
-- tokens' issue times in ms, names in the tokens, who is a host; then a host's default price and pulse in ms; minutes.
-- Out: one row for each that has a user: its place in the arrays (from 1), the user's id, name and avatar, and whether
-- the device is new, null when the token is too old.
-- Touches the devices, unless they are as they were and were seen within so many minutes: then nothing is written, and
-- no commit waits for the disk. Gives a first name to users without one, and new hosts their row.
-- The arrays are read through subqueries, which hide their lengths from the planner: one plan serves batches of all
-- sizes, where it would else plan each anew. Rows are written in the order of their users, so that the batches of two
-- nodes cannot wait for each other.
with asked as (
    select * from unnest(
        (select $1::int[]), (select $2::text[]), (select $3::text[]), (select $4::text[]), (select $5::text[]),
        (select $6::bigint[]), (select $7::text[]), (select $8::bool[])
    ) with ordinality as a (
        tenant_id, external_id, device_id, platform, app_version, issued_at_ms, token_name, hosting, place
    )
), person as (
    select a.*, u.id, u.name, u.avatar_url, a.issued_at_ms >= u.tokens_valid_from_ms as allowed,
        d.last_seen_at > now() - make_interval(mins => $11::int)
            and d.platform = a.platform and d.app_version = a.app_version as current
    from asked a join realtime.users u on u.tenant_id = a.tenant_id and u.external_id = a.external_id
    left join realtime.devices d on d.user_id = u.id and d.device_id = a.device_id
), device as (
    insert into realtime.devices as d (user_id, device_id, platform, app_version)
    select id, device_id, platform, app_version from person where allowed and current is not true order by id
    on conflict (user_id, device_id) do update
        set platform = excluded.platform, app_version = excluded.app_version, last_seen_at = now()
    returning d.user_id, d.xmax = 0 as fresh
), named as (
    update realtime.users u set name = p.token_name from person p
    where p.allowed and p.name = '' and p.token_name <> '' and u.id = p.id and u.name = ''
), hosting as (
    insert into realtime.hosts (user_id, tenant_id, price_coins, pulse_ms)
    select p.id, p.tenant_id, $9::bigint, $10::int from person p
    where p.allowed and p.hosting and not exists (select from realtime.hosts h where h.user_id = p.id)
    on conflict (user_id) do nothing
)
select p.place, p.id, coalesce(nullif(p.name, ''), p.token_name) as name, p.avatar_url,
    case when p.allowed then coalesce(d.fresh, false) end as fresh
from person p left join device d on d.user_id = p.id

-- name: lock_user
-- In: user. Out: id. Serialises what counts a user's devices.
select id from realtime.users where id = $1 for no key update

-- name: drop_oldest_devices
-- In: user, device that stays, how many may stay. Out: the ids of the devices that were dropped.
delete from realtime.devices d
using (
    select device_id from realtime.devices
    where user_id = $1 and device_id <> $2
    order by last_seen_at desc, device_id
    offset $3 - 1
) old
where d.user_id = $1 and d.device_id = old.device_id
returning d.device_id

-- name: resolve
-- In: tenant, external ids. Out: external id and id of those that exist.
select external_id, id from realtime.users where tenant_id = $1 and external_id = any($2::text[])

-- name: user_cards
-- In: ids. Out: one row for each that exists.
select id, tenant_id, external_id, name, avatar_url from realtime.users where id = any($1::bigint[])

-- name: update_profile
-- In: user, name or null, avatar or null. Out: the row after it.
update realtime.users set name = coalesce($2, name), avatar_url = coalesce($3, avatar_url)
where id = $1
returning id, tenant_id, external_id, name, avatar_url

-- name: tokens_valid_from
-- In: user. Out: unix ms; tokens issued before it are refused.
select tokens_valid_from_ms from realtime.users where id = $1

-- name: revoke_tokens
-- In: user, now in unix ms. Refuses all tokens issued until now.
update realtime.users set tokens_valid_from_ms = greatest(tokens_valid_from_ms, $2) where id = $1

-- name: drop_all_devices
-- In: user. Out: ids of the devices dropped.
delete from realtime.devices where user_id = $1 returning device_id

-- name: drop_device
-- In: user, device.
delete from realtime.devices where user_id = $1 and device_id = $2

-- name: touch_devices
-- In: users and device ids, pairwise; minutes. Out: users and device ids of those pairs that are no longer there.
-- Sets when the others were seen last, unless that was set within so many minutes.
with seen as (
    select * from unnest((select $1::bigint[]), (select $2::text[])) as s (user_id, device_id)
), touched as (
    update realtime.devices d set last_seen_at = now() from seen s
    where d.user_id = s.user_id and d.device_id = s.device_id
        and d.last_seen_at < now() - make_interval(mins => $3::int)
)
select s.user_id, s.device_id from seen s
where not exists (select from realtime.devices d where d.user_id = s.user_id and d.device_id = s.device_id)

-- name: release_push_address
-- In: kind, address, user and device that will have it. Takes it from whoever had it. Out: that user.
update realtime.devices set push_kind = null, push_address = null
where push_kind = $1 and push_address = $2 and (user_id, device_id) <> ($3, $4)
returning user_id

-- name: set_push_address
-- In: user, device, kind, address (both null to forget them), platform or null.
insert into realtime.devices (user_id, device_id, push_kind, push_address, platform)
values ($1, $2, $3, $4, coalesce($5, ''))
on conflict (user_id, device_id) do update
    set push_kind = excluded.push_kind, push_address = excluded.push_address,
        platform = coalesce($5, realtime.devices.platform), last_seen_at = now()

-- name: push_targets
-- In: ids. Out: one row for each device that can be reached by push.
select user_id, device_id, push_kind, push_address, platform from realtime.devices
where user_id = any($1::bigint[]) and push_address is not null
order by user_id, device_id

-- name: forget_push_addresses
-- In: kinds and addresses, pairwise, that the push service has called dead. Out: the users who had them.
update realtime.devices d set push_kind = null, push_address = null
from unnest($1::text[], $2::text[]) as gone (kind, address)
where d.push_kind = gone.kind and d.push_address = gone.address
returning d.user_id

-- name: host_profiles
-- In: ids. Out: one row for each that is a host.
select u.id, u.tenant_id, u.external_id, u.name, u.avatar_url,
    h.headline, h.languages, h.tags, h.category, h.media, h.price_coins, h.pulse_ms, h.rating_sum, h.rating_count
from realtime.hosts h join realtime.users u on u.id = h.user_id
where h.user_id = any($1::bigint[])

-- name: update_host
-- In: user, tenant, defaults (price, pulse in ms), then headline, languages, tags, category, media, price, pulse, each
-- null to leave it as it is. Makes the row when there is none.
insert into realtime.hosts as h (user_id, tenant_id, headline, languages, tags, category, media, price_coins, pulse_ms)
values ($1, $2, coalesce($5::text, ''), coalesce($6::text[], '{}'), coalesce($7::text[], '{}'), coalesce($8::text, ''),
    coalesce($9::text[], '{voice,video}'), coalesce($10::bigint, $3::bigint), coalesce($11::int, $4::int))
on conflict (user_id) do update set
    headline = coalesce($5, h.headline), languages = coalesce($6::text[], h.languages),
    tags = coalesce($7::text[], h.tags), category = coalesce($8, h.category), media = coalesce($9::text[], h.media),
    price_coins = coalesce($10, h.price_coins), pulse_ms = coalesce($11, h.pulse_ms), updated_at = now()

-- name: rate_host
-- In: host, stars 1 to 5.
update realtime.hosts set rating_sum = rating_sum + $2, rating_count = rating_count + 1 where user_id = $1

-- name: hosts_of
-- In: tenant, id after which to go on, limit. Out: host ids in order.
select user_id from realtime.hosts where tenant_id = $1 and user_id > $2 order by user_id limit $3
