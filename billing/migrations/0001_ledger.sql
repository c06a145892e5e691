-- The ledger: wallets, transfers, the append-only journal, and who may touch what.
--
-- Every amount is a whole number of coins in a bigint; there is no float in this schema. A coin that moves has one
-- row that names where it left and where it arrived; the entries view shows the row as signed entries that add up to
-- zero. Platform accounts (commission, sales, escrow, ...) have no balance row: they are sums of their entries, so no
-- row is hot.
--
-- Lock order everywhere: meter, then spending wallets by user id, then earning wallets by user id.

do $$
begin
    if not exists (select from pg_roles where rolname = 'talkmeter_app') then
        create role talkmeter_app nologin;
    end if;
exception
    when insufficient_privilege then
        raise exception 'the migrating user may not create role talkmeter_app: create it first';
    when duplicate_object or unique_violation then
        null; -- another database of the same server is being migrated at this moment
end
$$;

create schema billing;
grant usage on schema billing to talkmeter_app;

-- 2^53 - 1: every amount survives JSON in a browser.
create domain billing.coins as bigint check (value between 0 and 9007199254740991);

create function billing.clock_ms() returns bigint
language sql volatile
return (extract(epoch from clock_timestamp()) * 1000)::bigint;

-- In: any time in unix ms, or null for the clock. Out: the time, or an error for one that no clock shows.
create function billing.moment(p_now bigint) returns bigint
language plpgsql volatile set search_path = billing, pg_temp as $$
begin
    if p_now is null then
        return clock_ms();
    elsif p_now < 0 or p_now > 9007199254740991 then
        raise exception 'not a time: %', p_now using errcode = 'TM003';
    end if;
    return p_now;
end
$$;

create function billing.refuse_change() returns trigger
language plpgsql set search_path = billing, pg_temp as $$
begin
    raise exception '% is append-only: write a correction that names the old row', tg_table_name using errcode = 'TM001';
end
$$;

-- What a user may spend. fillfactor leaves room for HOT updates: no index column ever changes.
create table billing.spending_wallets (
    user_id bigint primary key,
    tenant_id int not null,
    paid billing.coins not null default 0,
    promo billing.coins not null default 0,
    v bigint not null default 0,
    last_promo billing.coins not null default 0, -- promotional part of the last debit: a tick reads it back by RETURNING
    restricted boolean not null default false -- after a chargeback of coins that were spent
) with (fillfactor = 70);

-- What a user has earned, without the shares of meters that still run (see billing.meters).
create table billing.earning_wallets (
    user_id bigint primary key,
    tenant_id int not null,
    earned billing.coins not null default 0,
    v bigint not null default 0
) with (fillfactor = 70);

-- wallet and earnings belong to a user, the others to a tenant.
create type billing.account as enum (
    'wallet', 'earnings',
    'grants', 'sales', 'commission', 'tax', 'loss', 'receivable', 'escrow', 'payouts', 'payout_tax', 'bank', 'adjustments'
);
create type billing.bucket as enum ('auto', 'paid', 'promo');
create type billing.transfer_kind as enum (
    'grant', 'gift', 'chat', 'purchase', 'chargeback', 'hold', 'hold_post', 'hold_void', 'payout', 'payout_tax',
    'payout_settle', 'payout_reversal', 'adjustment', 'correction'
);

-- One row for each transfer id that was ever decided. A refused one is kept, moves nothing, and stays refused.
-- coins leave `debit`; `fee` of them go to the tenant's commission, the rest to `credit`. `promo` is the promotional
-- part on a side that is a wallet.
create table billing.transfers (
    transfer_id uuid primary key,
    at_ms bigint not null,
    debit_owner bigint not null,
    credit_owner bigint not null,
    coins bigint not null check (coins between 1 and 9007199254740991),
    promo bigint not null,
    fee bigint not null,
    tenant_id int not null,
    fee_bp int not null check (fee_bp between 0 and 10000),
    kind billing.transfer_kind not null,
    debit billing.account not null,
    credit billing.account not null,
    bucket billing.bucket not null,
    refused text check (refused is null or (promo = 0 and fee = 0)),
    reason text not null check (length(reason) <= 500),
    corrects uuid,
    check (promo between 0 and coins),
    check (fee between 0 and coins),
    check (fee = 0 or credit = 'earnings'),
    check (promo = 0 or debit = 'wallet' or credit = 'wallet'),
    check ((debit, debit_owner) is distinct from (credit, credit_owner)),
    check ((kind = 'correction') = (corrects is not null) or refused is not null)
);
create index transfers_debit on billing.transfers (debit_owner, at_ms)
    where debit in ('wallet', 'earnings') and refused is null;
create index transfers_credit on billing.transfers (credit_owner, at_ms)
    where credit in ('wallet', 'earnings') and refused is null;
create unique index transfers_corrects on billing.transfers (corrects, debit, bucket) where corrects is not null and refused is null;
create trigger append_only before update or delete on billing.transfers
    for each row execute function billing.refuse_change();
create trigger append_only_all before truncate on billing.transfers
    for each statement execute function billing.refuse_change();

-- Who did what by hand, and why.
create table billing.audit_trail (
    entry_id bigint generated always as identity primary key,
    at_ms bigint not null,
    actor text not null check (length(actor) between 1 and 200),
    action text not null,
    subject_user bigint,
    reference uuid not null,
    coins bigint,
    reason text not null check (length(reason) between 1 and 500),
    before jsonb,
    after jsonb
);
create index audit_trail_user on billing.audit_trail (subject_user, entry_id);
create trigger append_only before update or delete on billing.audit_trail
    for each row execute function billing.refuse_change();
create trigger append_only_all before truncate on billing.audit_trail
    for each statement execute function billing.refuse_change();

-- In: user. Effect: both wallets exist. Idempotent; a user stays in the tenant that he was opened in.
create function billing.open_wallet(p_tenant int, p_user bigint) returns void
language plpgsql security definer set search_path = billing, pg_temp as $$
begin
    insert into spending_wallets (user_id, tenant_id) values (p_user, p_tenant) on conflict do nothing;
    insert into earning_wallets (user_id, tenant_id) values (p_user, p_tenant) on conflict do nothing;
    if (select tenant_id from spending_wallets where user_id = p_user) <> p_tenant then
        raise exception 'user % belongs to another tenant', p_user using errcode = 'TM002';
    end if;
end
$$;
grant execute on function billing.open_wallet to talkmeter_app;

-- Id that follows from another one and a word: the same cause never writes twice. Keeps the first 48 bits (the time).
create function billing.derived_id(p_id uuid, p_word text) returns uuid
language sql immutable
return (left(p_id::text, 13) || '-8' || substr(md5(p_id::text || p_word), 1, 3)
        || '-a' || substr(md5(p_id::text || p_word), 4, 3) || '-' || substr(md5(p_id::text || p_word), 7, 12))::uuid;

grant execute on function billing.derived_id, billing.clock_ms to talkmeter_app;
grant select on billing.spending_wallets, billing.earning_wallets, billing.transfers, billing.audit_trail to talkmeter_app;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
