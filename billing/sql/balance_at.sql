-- In: $1 user, $2 unix ms. Out: the sums of his entries up to and with that moment, as (paid, promo, earned).
-- A wallet's charge counts from the moment its pulse began.
select coalesce(sum(coins) filter (where account = 'paid'), 0)::bigint as paid,
       coalesce(sum(coins) filter (where account = 'promo'), 0)::bigint as promo,
       coalesce(sum(coins) filter (where account = 'earnings'), 0)::bigint as earned
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
) as entries
