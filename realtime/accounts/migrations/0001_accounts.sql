-- Tenants, users, their devices, and what hosts say of themselves.

create table realtime.tenants (
    id int generated always as identity primary key,
    external_id text not null unique check (length(external_id) between 1 and 64),
    settings jsonb not null default '{}',
    created_at timestamptz not null default now()
);

-- Internal user ids are shard << 48 | number. This database is shard 0; that of shard n begins its sequence at n << 48.
create sequence realtime.user_ids as bigint minvalue 1;

create table realtime.users (
    id bigint primary key default nextval('realtime.user_ids'),
    tenant_id int not null references realtime.tenants,
    external_id text not null check (length(external_id) between 1 and 128),
    name text not null default '' check (length(name) <= 80),
    avatar_url text not null default '' check (length(avatar_url) <= 500),
    -- Tokens issued before this instant (unix milliseconds) are refused: sign-out everywhere.
    tokens_valid_from_ms bigint not null default 0,
    created_at timestamptz not null default now(),
    unique (tenant_id, external_id)
);
alter sequence realtime.user_ids owned by realtime.users.id;

create table realtime.devices (
    user_id bigint not null references realtime.users on delete cascade,
    device_id text not null check (length(device_id) between 1 and 128),
    platform text not null default '' check (length(platform) <= 128),
    app_version text not null default '' check (length(app_version) <= 128),
    push_kind text check (push_kind in ('fcm', 'fcm_fid')),
    push_address text check (length(push_address) between 1 and 1024),
    last_seen_at timestamptz not null default now(),
    primary key (user_id, device_id),
    check ((push_kind is null) = (push_address is null))
);
-- One installation of the app wakes for one user only: whoever registered its address last.
create unique index devices_push_address on realtime.devices (push_kind, push_address) where push_address is not null;

create table realtime.hosts (
    user_id bigint primary key references realtime.users on delete cascade,
    tenant_id int not null references realtime.tenants,
    headline text not null default '' check (length(headline) <= 200),
    languages text[] not null default '{}' check (cardinality(languages) <= 16),
    tags text[] not null default '{}' check (cardinality(tags) <= 16),
    category text not null default '' check (length(category) <= 32),
    media text[] not null default '{voice,video}' check (media <@ '{voice,video}' and cardinality(media) between 1 and 2),
    price_coins bigint not null check (price_coins between 0 and 1000000),
    pulse_ms int not null check (pulse_ms between 1000 and 3600000),
    rating_sum bigint not null default 0,
    rating_count bigint not null default 0,
    updated_at timestamptz not null default now()
);
create index hosts_tenant on realtime.hosts (tenant_id, user_id);
