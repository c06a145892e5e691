-- The application's role, the schema of everything that is not money, the event outbox, the idempotency records.
do $$
begin
    if not exists (select from pg_roles where rolname = 'talkmeter_app') then
        create role talkmeter_app nologin;
    end if;
    if not pg_has_role(current_user, 'talkmeter_app', 'member') then
        execute format('grant talkmeter_app to %I', current_user);
    end if;
exception
    when insufficient_privilege then
        raise exception 'the migrating user may not create or join role talkmeter_app: create it first, and grant it';
    when duplicate_object or unique_violation then
        null; -- another database of the same server is being migrated at this moment
end
$$;

create schema realtime;
grant usage on schema realtime to talkmeter_app;
alter default privileges in schema realtime grant select, insert, update, delete on tables to talkmeter_app;
alter default privileges in schema realtime grant usage, select on sequences to talkmeter_app;

-- Durable events, written by the transaction that causes them, deleted by whoever relays them. No trigger, no
-- NOTIFY: a NOTIFY per row serialises commits. `data` is the JSON that goes to the client.
create table realtime.outbox (
    id uuid primary key,
    tenant_id int not null,
    audience bigint[] not null check (cardinality(audience) between 1 and 10000),
    event text not null,
    v bigint not null,
    ts_ms bigint not null,
    push boolean not null default true,
    data bytea not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);

-- The first reply to each mutation, stored in the mutation's transaction and kept for seven days.
create table realtime.idempotency (
    tenant_id int not null,
    user_id bigint not null,
    key text not null check (length(key) between 1 and 128),
    request_hash bytea not null,
    reply bytea,
    created_at timestamptz not null default now(),
    primary key (tenant_id, user_id, key)
);
create index idempotency_age on realtime.idempotency using brin (created_at);
