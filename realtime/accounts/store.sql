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
-- In: tenant, external id, device id, platform, app version, token's issue time in ms, name in the token, is a host,
-- a host's default price and pulse in ms.
-- Out: the user's row, and whether the device is new; the row alone when the token is too old; nothing for a new user.
-- Touches the device, gives a first name to a user without one, and a new host her row.
with person as (
    select * from realtime.users where tenant_id = $1 and external_id = $2
), allowed as (
    select id, tenant_id from person where $6 >= tokens_valid_from_ms
), device as (
    insert into realtime.devices as d (user_id, device_id, platform, app_version)
    select id, $3, $4, $5 from allowed
    on conflict (user_id, device_id) do update
        set platform = excluded.platform, app_version = excluded.app_version, last_seen_at = now()
    returning d.xmax = 0 as fresh
), named as (
    update realtime.users u set name = $7 from allowed a where u.id = a.id and u.name = '' and $7 <> ''
), hosting as (
    insert into realtime.hosts (user_id, tenant_id, price_coins, pulse_ms)
    select a.id, a.tenant_id, $9, $10 from allowed a
    where $8 and not exists (select from realtime.hosts h where h.user_id = a.id)
    on conflict (user_id) do nothing
)
select p.id, p.tenant_id, p.external_id, coalesce(nullif(p.name, ''), $7) as name, p.avatar_url,
    (select fresh from device) as fresh
from person p

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
-- In: users and device ids, pairwise. Sets when they were seen last.
update realtime.devices d set last_seen_at = now()
from unnest($1::bigint[], $2::text[]) as seen (user_id, device_id)
where d.user_id = seen.user_id and d.device_id = seen.device_id

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
