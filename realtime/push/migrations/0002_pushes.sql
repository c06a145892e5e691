-- What was to be told to whom by push, what became of it on each device, and who wants none of it.

-- One row for one thing that one user is told: the unique key is what makes it at most one alert. `thing` names it (a
-- call, a message); `event_id` is the durable event behind it, whose receipt by a socket makes the push unneeded.
create table realtime.pushes (
    id uuid primary key,
    tenant_id int not null,
    user_id bigint not null references realtime.users on delete cascade,
    kind text not null check (length(kind) <= 32),
    thing text not null check (length(thing) <= 128),
    event_id uuid,
    args jsonb not null,
    except_device text,
    state text not null default 'queued' check (
        state in ('queued', 'sending', 'sent', 'unneeded', 'expired', 'unreachable', 'failed')
    ),
    -- Taken back, whatever its state: a call that has ended needs no ringing.
    cancelled boolean not null default false,
    queued_ms bigint not null,
    expires_ms bigint not null,
    unique (user_id, kind, thing)
);
create index pushes_age on realtime.pushes using brin (queued_ms);

-- One row for each device that a push went to, or was refused for.
create table realtime.push_deliveries (
    push_id uuid not null references realtime.pushes on delete cascade,
    device_id text not null,
    state text not null check (state in ('sent', 'received', 'shown', 'acted', 'dead', 'refused')),
    service_id text,
    error text,
    sent_ms bigint not null,
    received_ms bigint,
    shown_ms bigint,
    acted_ms bigint,
    primary key (push_id, device_id)
);

create table realtime.push_mutes (
    user_id bigint not null references realtime.users on delete cascade,
    category text not null check (length(category) <= 32),
    primary key (user_id, category)
);

-- Events that a device has acknowledged over its socket; kept for a day, for a ring lasts a minute.
create table realtime.push_receipts (
    event_id uuid not null,
    user_id bigint not null,
    at_ms bigint not null,
    primary key (event_id, user_id)
);
create index push_receipts_age on realtime.push_receipts using brin (at_ms);
