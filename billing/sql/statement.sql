-- In: $1 user, $2 $3 cursor (at_ms and entry id; entries before it), $4 how many.
-- Out: the user's entries, newest first: transfers, and a line for each meter (it stands at the moment the meter was
-- opened and grows while it runs; the receipt has every pulse). Signed coins by bucket.
with mine as (
    (select t.at_ms, t.transfer_id as entry_id, t.kind::text as kind, t.reason, t.corrects as relates_to,
            case when t.credit in ('wallet', 'earnings') then t.credit_owner end as peer_id,
            case when t.debit = 'wallet' then t.promo - t.coins else 0 end as paid,
            case when t.debit = 'wallet' then -t.promo else 0 end as promo,
            case when t.debit = 'earnings' then -t.coins else 0 end as earned
     from billing.transfers t
     where t.debit_owner = $1 and t.debit in ('wallet', 'earnings') and t.refused is null
       and (t.at_ms, t.transfer_id) < ($2::bigint, $3::uuid)
     order by t.at_ms desc, t.transfer_id desc limit $4)
    union all
    (select t.at_ms, t.transfer_id, t.kind::text, t.reason, t.corrects,
            case when t.debit in ('wallet', 'earnings') then t.debit_owner end,
            case when t.credit = 'wallet' then t.coins - t.promo else 0 end,
            case when t.credit = 'wallet' then t.promo else 0 end,
            case when t.credit = 'earnings' then t.coins - t.fee else 0 end
     from billing.transfers t
     where t.credit_owner = $1 and t.credit in ('wallet', 'earnings') and t.refused is null
       and (t.at_ms, t.transfer_id) < ($2::bigint, $3::uuid)
     order by t.at_ms desc, t.transfer_id desc limit $4)
    union all
    (select m.opened_ms, m.meter_id, 'call', coalesce(m.reason, ''), null, m.payee_id, -m.spent_paid, -m.spent_promo, 0
     from billing.meters m
     where m.payer_id = $1 and m.spent_paid + m.spent_promo > 0 and (m.opened_ms, m.meter_id) < ($2::bigint, $3::uuid)
     order by m.opened_ms desc, m.meter_id desc limit $4)
    union all
    (select m.opened_ms, m.meter_id, 'call', coalesce(m.reason, ''), null, m.payer_id, 0, 0, m.share
     from billing.meters m
     where m.payee_id = $1 and m.share > 0 and (m.opened_ms, m.meter_id) < ($2::bigint, $3::uuid)
     order by m.opened_ms desc, m.meter_id desc limit $4)
)
select * from mine order by at_ms desc, entry_id desc limit $4
