-- Meters: their state, the journal of charges and refunds, proofs of life, and the outbox of what happened to them.

create type billing.meter_state as enum ('open', 'running', 'suspended', 'faulted', 'ended');
create type billing.meter_side as enum ('payer', 'payee', 'both');
create type billing.event_kind as enum (
    'charged', 'low_balance', 'extended', 'exhausted', 'suspended', 'resumed', 'lost', 'late_waived'
);

-- One row a meter. The terms (price to grace) are those of the last row in meter_rates, repeated for the tick.
-- `slot` is the tenth of a second in the minute at which pulses of whole minutes fall due. It stays the same while
-- the meter runs, so a tick changes no indexed column. Meters that started together lie together and are ticked by one
-- transaction: the fillfactor leaves room for a second version of every row of a page, which keeps the update there (HOT).
-- Columns are ordered by width: no padding in the row and in the write-ahead log; static limits are checked in
-- meter_rates, once, not by every tick.
create table billing.meters (
    meter_id uuid primary key,
    payer_id bigint not null,
    payee_id bigint not null,
    price bigint not null,
    opened_ms bigint not null,
    invited_ms bigint not null,
    -- changed by every tick
    due_ms bigint, -- funded until; the next pulse falls due
    spent_paid bigint not null default 0 check (spent_paid >= 0),
    spent_promo bigint not null default 0 check (spent_promo >= 0),
    share bigint not null default 0 check (share >= 0), -- the host's, credited to the wallet when the meter ends
    fee bigint not null default 0,
    tax bigint not null default 0,
    period int not null default 0,
    v int not null default 0, -- grows with every change of these sums
    fee_remainder int not null default 0 check (fee_remainder between 0 and 9999),
    tax_remainder int not null default 0 check (tax_remainder between 0 and 9999),
    -- as they are in the terms
    tenant_id int not null,
    pulse_ms int not null,
    -- The funded time lies in this band: above the highest of the tariff's thresholds that is still to be told (-1: none),
    -- up to the lowest that was told (0: the last warning was; 2147483647: none was). Outside, there is something to tell.
    low_next_ms int not null default -1,
    low_told_ms int not null default 2147483647,
    grace_ms int not null,
    state billing.meter_state not null default 'open',
    fee_bp smallint not null,
    tax_bp smallint not null,
    slot smallint,
    -- changed at the edges
    loss bigint not null default 0 check (loss >= 0), -- refunded, and no longer to be had from the host
    started_ms bigint,
    running_since_ms bigint,
    suspended_ms bigint, -- last proof of life
    paused_from_ms bigint, -- when that was noticed
    ended_ms bigint,
    paused_ms int not null default 0,
    pauses int not null default 0,
    reason text,
    lost_side billing.meter_side,
    -- due_ms of a running meter that has no slot: pulses that are no multiple of a minute
    timer_ms bigint generated always as (case when slot is null and state = 'running' then due_ms end) stored,
    check (spent_paid + spent_promo + loss = share + fee + tax),
    check ((state = 'ended') = (ended_ms is not null)),
    check (slot is null or state = 'running'),
    check (state in ('open', 'ended') or (due_ms is not null and started_ms is not null))
) with (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.1);
create index meters_slot on billing.meters (slot) where state = 'running' and slot is not null;
create index meters_timer on billing.meters (timer_ms) where timer_ms is not null;
create index meters_suspended on billing.meters (meter_id) where state = 'suspended';
create index meters_pending on billing.meters (payee_id) where state in ('running', 'suspended', 'faulted');
create index meters_paying on billing.meters (payer_id) where state = 'running';
create index meters_payer on billing.meters (payer_id, opened_ms);
create index meters_payee on billing.meters (payee_id, opened_ms);

-- The terms of a meter from a period on; the first is locked when the meter is opened, re-rating adds one.
create table billing.meter_rates (
    meter_id uuid not null,
    from_period int not null check (from_period >= 1),
    at_ms bigint not null,
    price bigint not null check (price between 1 and 1000000000),
    pulse_ms int not null check (pulse_ms between 1000 and 86400000),
    first_price bigint not null check (first_price between price and 1000000000), -- of from_period: the minimum charge
    first_ms int not null check (first_ms >= pulse_ms), -- and the time that it buys
    cut_ms int not null default 0 check (cut_ms >= 0), -- what these terms cut off the period before
    fee_bp int not null check (fee_bp between 0 and 10000),
    tax_bp int not null check (tax_bp between 0 and 10000),
    tariff jsonb not null,
    primary key (meter_id, from_period)
);
create trigger append_only before update or delete on billing.meter_rates
    for each row execute function billing.refuse_change();

-- The journal of ticks: one narrow row each. Partitioned by the time in the meter's id.
create table billing.charges (
    meter_id uuid not null,
    period int not null check (period >= 1),
    at_ms bigint not null, -- when the pulse began
    price bigint not null check (price > 0),
    promo bigint not null, -- the part of the price from the promotional bucket
    share bigint not null check (share >= 0),
    fee bigint not null check (fee >= 0),
    tax bigint not null check (tax >= 0),
    primary key (meter_id, period),
    check (promo between 0 and price),
    check (share + fee + tax = price)
) partition by range (meter_id);
create table billing.charges_default partition of billing.charges default;
create trigger append_only before update or delete on billing.charges
    for each row execute function billing.refuse_change();

-- Corrections of charges: each names the charge, no charge is given back more than once over.
create table billing.charge_refunds (
    refund_id uuid primary key,
    meter_id uuid not null,
    period int not null,
    at_ms bigint not null,
    coins bigint not null check (coins > 0),
    promo bigint not null, -- the part that went back to the promotional bucket
    share bigint not null check (share >= 0), -- taken back from the host
    fee bigint not null,
    tax bigint not null,
    loss bigint not null check (loss >= 0), -- borne by the platform: the host's wallet did not reach
    reason text not null,
    check (promo between 0 and coins),
    check (share + fee + tax + loss = coins)
);
create index charge_refunds_charge on billing.charge_refunds (meter_id, period);
create trigger append_only before update or delete on billing.charge_refunds
    for each row execute function billing.refuse_change();

-- Time that nobody pays: from the last proof (or the due moment of a late pulse) until it went on.
create table billing.meter_pauses (
    meter_id uuid not null,
    seq int not null,
    from_ms bigint not null,
    until_ms bigint,
    cause text not null check (cause in ('silent', 'blind', 'late')),
    side billing.meter_side,
    primary key (meter_id, seq)
);

-- When each side was last heard, and when somebody last said so. Unlogged: after a crash there is no evidence, which
-- is what a crash means, and the next reports (every few seconds) bring it back.
create unlogged table billing.meter_proofs (
    meter_id uuid primary key,
    payer_heard_ms bigint, -- null: nothing is known of this side
    payer_seen_ms bigint,
    payee_heard_ms bigint,
    payee_seen_ms bigint
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);

-- What happened, for whoever consumes it in his own transaction. No trigger, no NOTIFY: it would serialise commits.
create table billing.meter_events (
    event_id bigint generated by default as identity primary key,
    meter_id uuid not null,
    at_ms bigint not null,
    funded_until_ms bigint not null,
    price int not null,
    period int not null,
    kind billing.event_kind not null,
    side billing.meter_side,
    threshold_ms int -- of low_balance: which warning it is; 0: the last, the next pulse cannot be paid
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- What a payer had for nothing on a day (UTC): free seconds and short-call waivers are limited.
create table billing.payer_days (
    payer_id bigint not null,
    day int not null,
    free_ms bigint not null default 0,
    short_waivers int not null default 0,
    primary key (payer_id, day)
);

-- Why a meter is in state faulted: an unexpected error, noted and set aside so that the others go on.
create table billing.meter_faults (
    meter_id uuid primary key,
    at_ms bigint not null,
    error text not null,
    attempts int not null default 1
);

-- A user's money. Shares of meters that still run count as earned, though they reach the wallet at the end.
create view billing.balances as
select s.user_id, s.tenant_id, s.paid, s.promo, e.earned + p.share as earned, e.earned as settled,
       s.v + e.v + p.v as v, s.restricted
from billing.spending_wallets s
join billing.earning_wallets e using (user_id)
cross join lateral (
    select coalesce(sum(m.share), 0)::bigint as share, coalesce(sum(m.v), 0)::bigint as v
    from billing.meters m
    where m.payee_id = s.user_id and m.state in ('running', 'suspended', 'faulted')
) p;

-- Every row of the journal as signed entries; the entries of one row add up to zero.
create view billing.entries as
select t.transfer_id as source_id, 0 as period, t.at_ms, t.kind::text as kind, t.tenant_id, x.account, x.owner, x.coins
from billing.transfers t
cross join lateral (values
    (case when t.debit = 'wallet' then 'paid' else t.debit::text end, t.debit_owner,
     case when t.debit = 'wallet' then t.promo - t.coins else -t.coins end),
    ('promo', t.debit_owner, case when t.debit = 'wallet' then -t.promo else 0 end),
    (case when t.credit = 'wallet' then 'paid' else t.credit::text end, t.credit_owner,
     case when t.credit = 'wallet' then t.coins - t.promo else t.coins - t.fee end),
    ('promo', t.credit_owner, case when t.credit = 'wallet' then t.promo else 0 end),
    ('commission', t.tenant_id::bigint, t.fee)
) as x (account, owner, coins)
where t.refused is null and x.coins <> 0
union all
select c.meter_id, c.period, c.at_ms, 'charge', m.tenant_id, x.account, x.owner, x.coins
from billing.charges c join billing.meters m using (meter_id)
cross join lateral (values
    ('paid', m.payer_id, c.promo - c.price), ('promo', m.payer_id, -c.promo), ('earnings', m.payee_id, c.share),
    ('commission', m.tenant_id::bigint, c.fee), ('tax', m.tenant_id::bigint, c.tax)
) as x (account, owner, coins)
where x.coins <> 0
union all
select r.refund_id, r.period, r.at_ms, 'refund', m.tenant_id, x.account, x.owner, x.coins
from billing.charge_refunds r join billing.meters m using (meter_id)
cross join lateral (values
    ('paid', m.payer_id, r.coins - r.promo), ('promo', m.payer_id, r.promo), ('earnings', m.payee_id, -r.share),
    ('commission', m.tenant_id::bigint, -r.fee), ('tax', m.tenant_id::bigint, -r.tax), ('loss', m.tenant_id::bigint, -r.loss)
) as x (account, owner, coins)
where x.coins <> 0;

grant select on billing.meters, billing.meter_rates, billing.charges, billing.charge_refunds, billing.meter_pauses,
    billing.meter_events, billing.meter_proofs, billing.meter_faults, billing.balances, billing.entries to talkmeter_app;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
