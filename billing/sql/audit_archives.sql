-- In: $1 partition name after which to look, $2 how many. Out: faults; one row says how far the look went (fault null).
-- Faults: archive (the meters of a dropped month, with what was refunded since, differ from the archived sums).
with chosen as materialized (
    select a.* from billing.archives a where a.partition > $1 order by a.partition limit $2
)
select null::text as fault, (select count(*) from chosen) as examined, (select max(partition) from chosen) as key,
       null::text as detail
union all
select 'archive', null, a.partition, format('archived %s coins, meters %s', a.coins, m.coins)
from chosen a
cross join lateral (
    select coalesce(sum(x.spent_paid + x.spent_promo), 0) as coins, coalesce(sum(x.spent_promo), 0) as promo,
           coalesce(sum(x.share), 0) as share
    from billing.meters x where x.meter_id >= a.from_id and x.meter_id < a.to_id
) m
cross join lateral (
    select coalesce(sum(f.coins), 0) as coins, coalesce(sum(f.promo), 0) as promo, coalesce(sum(f.share), 0) as share
    from billing.charge_refunds f where f.meter_id >= a.from_id and f.meter_id < a.to_id
) f
where a.dropped_ms is not null
  and (a.coins, a.promo, a.share) is distinct from (m.coins + f.coins, m.promo + f.promo, m.share + f.share)
