-- In: $1 name of a monthly partition of charges. Out: its range of ids, the sums of its charges, the sums of its meters
-- with what was refunded, and how many of the meters have not ended; no row when there is no such partition.
with part as (
    select c.relname::text as name,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)'))[1]::uuid as from_id,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::uuid as to_id
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'billing.charges'::regclass and c.relname = $1::text and c.relname ~ '^charges_[0-9]{6}$'
)
select p.from_id, p.to_id, c.charges, c.coins, c.promo, c.share, c.fee, c.tax, m.meters, m.live,
       m.coins + f.coins as meter_coins, m.share + f.share as meter_share, m.fee + f.fee as meter_fee,
       m.tax + f.tax as meter_tax
from part p
cross join lateral (
    select count(*) as charges, coalesce(sum(x.price), 0) as coins, coalesce(sum(x.promo), 0) as promo,
           coalesce(sum(x.share), 0) as share, coalesce(sum(x.fee), 0) as fee, coalesce(sum(x.tax), 0) as tax
    from billing.charges x where x.meter_id >= p.from_id and x.meter_id < p.to_id
) c
cross join lateral (
    select count(*) filter (where x.period > 0) as meters, count(*) filter (where x.state <> 'ended') as live,
           coalesce(sum(x.spent_paid + x.spent_promo), 0) as coins, coalesce(sum(x.share), 0) as share,
           coalesce(sum(x.fee), 0) as fee, coalesce(sum(x.tax), 0) as tax
    from billing.meters x where x.meter_id >= p.from_id and x.meter_id < p.to_id
) m
cross join lateral (
    select coalesce(sum(x.coins), 0) as coins, coalesce(sum(x.share), 0) as share, coalesce(sum(x.fee), 0) as fee,
           coalesce(sum(x.tax), 0) as tax
    from billing.charge_refunds x where x.meter_id >= p.from_id and x.meter_id < p.to_id
) f
