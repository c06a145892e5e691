-- In: $1 user, $2 unix ms. Out: the sums of his entries up to and with that moment, as (paid, promo, earned), and as JSON
-- the meters whose charges have left the database and began on both sides of that moment, which the archive must tell.
-- A wallet's charge counts from the moment its pulse began.
with archived as materialized (
    select m.*, coalesce(f.paid, 0) as back_paid, coalesce(f.promo, 0) as back_promo, coalesce(f.share, 0) as back_share
    from billing.meters m
    cross join lateral (
        select sum(r.coins - r.promo) as paid, sum(r.promo) as promo, sum(r.share) as share
        from billing.charge_refunds r where r.meter_id = m.meter_id
    ) f
    where (m.payer_id = $1 or m.payee_id = $1) and m.opened_ms <= $2 and m.period > 0
      and exists (select from billing.archives a
                  where a.dropped_ms is not null and m.meter_id >= a.from_id and m.meter_id < a.to_id)
)
select coalesce(sum(coins) filter (where account = 'paid'), 0)::bigint as paid,
       coalesce(sum(coins) filter (where account = 'promo'), 0)::bigint as promo,
       coalesce(sum(coins) filter (where account = 'earnings'), 0)::bigint as earned,
       (select jsonb_agg(jsonb_build_object('meter', a.meter_id, 'period', a.period, 'pays', a.payer_id = $1,
                                            'archived', billing.archived_at(a.meter_id)))
        from archived a where a.due_ms > $2)::text as split
from (
    select x.account, x.coins
    from billing.transfers t
    cross join lateral (values ('paid', case when t.debit = 'wallet' then t.promo - t.coins end),
                               ('promo', case when t.debit = 'wallet' then -t.promo end),
                               ('earnings', case when t.debit = 'earnings' then -t.coins end)) as x (account, coins)
    where t.debit_owner = $1 and t.debit in ('wallet', 'earnings') and t.refused is null and t.at_ms <= $2
    union all
    select x.account, x.coins
    from billing.transfers t
    cross join lateral (values ('paid', case when t.credit = 'wallet' then t.coins - t.promo end),
                               ('promo', case when t.credit = 'wallet' then t.promo end),
                               ('earnings', case when t.credit = 'earnings' then t.coins - t.fee end)) as x (account, coins)
    where t.credit_owner = $1 and t.credit in ('wallet', 'earnings') and t.refused is null and t.at_ms <= $2
    union all
    select x.account, x.coins
    from billing.meters m
    join billing.charges c using (meter_id)
    cross join lateral (values ('paid', c.promo - c.price), ('promo', -c.promo)) as x (account, coins)
    where m.payer_id = $1 and m.opened_ms <= $2 and c.at_ms <= $2
    union all
    select 'earnings', c.share
    from billing.meters m join billing.charges c using (meter_id)
    where m.payee_id = $1 and m.opened_ms <= $2 and c.at_ms <= $2
    union all
    select x.account, x.coins
    from billing.meters m
    join billing.charge_refunds r using (meter_id)
    cross join lateral (values ('paid', r.coins - r.promo), ('promo', r.promo)) as x (account, coins)
    where m.payer_id = $1 and m.opened_ms <= $2 and r.at_ms <= $2
    union all
    select 'earnings', -r.share
    from billing.meters m join billing.charge_refunds r using (meter_id)
    where m.payee_id = $1 and m.opened_ms <= $2 and r.at_ms <= $2
    union all
    select x.account, x.coins
    from archived a
    cross join lateral (values ('paid', -a.spent_paid - a.back_paid), ('promo', -a.spent_promo - a.back_promo))
        as x (account, coins)
    where a.payer_id = $1 and a.due_ms <= $2
    union all
    select 'earnings', a.share + a.back_share from archived a where a.payee_id = $1 and a.due_ms <= $2
) as entries
