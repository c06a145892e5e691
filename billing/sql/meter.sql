-- In: $1 meter. Out: its state and both balances.
select m.meter_id, m.tenant_id, m.state::text as state, m.reason, m.period, m.price, m.pulse_ms, m.due_ms, m.opened_ms,
       m.started_ms, m.ended_ms, m.suspended_ms, m.paused_ms, m.pauses, m.spent_paid, m.spent_promo, m.share, m.fee, m.tax,
       m.loss, m.payer_id, m.payee_id, m.lost_side::text as lost_side,
       p.paid as payer_paid, p.promo as payer_promo, p.earned::bigint as payer_earned, p.v::bigint as payer_v,
       h.paid as payee_paid, h.promo as payee_promo, h.earned::bigint as payee_earned, h.v::bigint as payee_v
from billing.meters m
join billing.balances p on p.user_id = m.payer_id
join billing.balances h on h.user_id = m.payee_id
where m.meter_id = $1
