-- In: $1 how many at most. Out: events, deleted in this transaction; see billing.take_events.
select event_id, kind::text as kind, meter_id, tenant_id, payer_id, payee_id, period, price, at_ms, funded_until_ms,
       ends_at_ms, side::text as side, threshold_ms, payer_paid, payer_promo, payer_earned, payer_v,
       payee_paid, payee_promo, payee_earned, payee_v, spent, share
from billing.take_events($1::int)
