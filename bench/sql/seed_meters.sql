-- In: $1 how many meters, $2 how many wallets there are, $3 moment in ms at which the first started, $4 grace in ms,
-- Effect: running one-minute meters with their first charge, proved now, their
-- pulses spread evenly over the minute; payers in the lower half of the users, payees in the upper.
with wanted as materialized (
    select n, (lpad(to_hex($3::bigint + n / 10), 12, '0') || '7000' || '8' || substr(md5(n::text), 1, 15))::uuid as id,
           1 + (n * 7919) % ($2::bigint / 2) as payer, $2::bigint / 2 + 1 + (n * 104729) % ($2::bigint / 2) as payee,
           $3::bigint + n * 60000 / $1::bigint as started
    from generate_series(0, $1::bigint - 1) n
), opened as (
    insert into billing.meters (meter_id, payer_id, payee_id, tenant_id, price, pulse_ms, fee_bp, tax_bp, grace_ms,
                                low_next_ms, opened_ms, invited_ms, state, slot, period, due_ms, spent_paid, share, fee, v,
                                started_ms, running_since_ms)
    select id, payer, payee, 1, 10, 60000, 3000, 0, $4, 60000, started, started, 'running',
           billing.slot_of(started + 60000, 60000), 1, started + 60000, 10, 7, 3, 1, started, started
    from wanted order by n
), rated as (
    insert into billing.meter_rates (meter_id, from_period, at_ms, price, pulse_ms, first_price, first_ms, fee_bp, tax_bp,
                                     tariff)
    select id, 1, started, 10, 60000, 10, 60000, 3000, 0,
           '{"rounding": "pulse", "minimum_coins": 0, "short_call_ms": 0, "low_balance_ms": [60000]}'
    from wanted order by n
), charged as (
    insert into billing.charges (meter_id, period, at_ms, price, promo, share, fee, tax)
    select id, 1, started, 10, 0, 7, 3, 0 from wanted order by n
), proved as (
    insert into billing.meter_proofs select id, started, started, started, started from wanted order by n
)
update billing.spending_wallets w set paid = paid - 10, v = v + 1 from wanted where w.user_id = wanted.payer
