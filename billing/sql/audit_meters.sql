-- In: $1 meter id after which to look, $2 how many meters. Out: faults of meters; one row says how far the look went
-- (fault null). Reads one moment. Meters of archived months are compared as a whole (audit_archives.sql).
-- Faults: periods (gap or repeat), totals (meter differs from its journal), parts (a charge does not add up), price
-- (other than the locked terms), fee (commission or tax off by their rule), after_end (a charge kept that began at the
-- end or later), early (a pulse began before the one before was used up), refunds (more given back than charged).
with chosen as materialized (
    select m.* from billing.meters m where m.meter_id > $1 order by m.meter_id limit $2
), span as materialized (
    select (array_agg(meter_id order by meter_id))[1] as low, (array_agg(meter_id order by meter_id desc))[1] as high,
           count(*) as n from chosen
), given as materialized (
    select f.meter_id, f.period, sum(f.coins) as coins, sum(f.promo) as promo, sum(f.share) as share, sum(f.fee) as fee,
           sum(f.tax) as tax, sum(f.loss) as loss
    from billing.charge_refunds f, span where f.meter_id between span.low and span.high
    group by f.meter_id, f.period
), lines as materialized (
    select c.meter_id, c.period, c.at_ms, c.price, c.promo, c.share, c.fee, c.tax,
           coalesce(g.coins, 0) as back, coalesce(g.promo, 0) as back_promo, coalesce(g.share, 0) as back_share,
           coalesce(g.fee, 0) as back_fee, coalesce(g.tax, 0) as back_tax, coalesce(g.loss, 0) as loss,
           r.fee_bp, r.tax_bp, r.from_period = c.period as new_terms,
           case when r.from_period = c.period then r.first_price else r.price end as terms_price,
           case when r.from_period = c.period then r.first_ms else r.pulse_ms end as length_ms,
           lag(c.at_ms) over w as before_ms, lag(case when r.from_period = c.period then r.first_ms else r.pulse_ms end) over w
               as before_length_ms
    from billing.charges c
    cross join span
    left join given g on g.meter_id = c.meter_id and g.period = c.period
    left join lateral (select * from billing.meter_rates r where r.meter_id = c.meter_id and r.from_period <= c.period
                       order by r.from_period desc limit 1) r on true
    where c.meter_id between span.low and span.high
    window w as (partition by c.meter_id order by c.period)
), sums as materialized (
    select l.meter_id, count(*) as n, min(l.period) as first, max(l.period) as last,
           sum(l.price - l.promo - (l.back - l.back_promo)) as paid, sum(l.promo - l.back_promo) as promo,
           sum(l.share - l.back_share) as share, sum(l.fee - l.back_fee) as fee, sum(l.tax - l.back_tax) as tax,
           sum(l.loss) as loss, sum((l.price - l.back) * l.fee_bp) as fee_due,
           sum((l.fee + l.tax - l.back_fee - l.back_tax) * l.tax_bp) as tax_due
    from lines l group by l.meter_id
), judged as (
    select c.*, s.n, s.first, s.last, s.paid, s.promo, s.share as lines_share, s.fee as lines_fee, s.tax as lines_tax,
           s.loss as lines_loss, s.fee_due, s.tax_due
    from chosen c left join sums s using (meter_id)
    where not exists (select from billing.archives a
                      where a.dropped_ms is not null and c.meter_id >= a.from_id and c.meter_id < a.to_id)
)
select null::text as fault, (select n from span) as examined, (select high from span)::text as key, null::text as detail
union all
select 'periods', null, j.meter_id::text, format('period %s, charges %s from %s to %s', j.period, j.n, j.first, j.last)
from judged j
where (j.period, j.period) is distinct from (coalesce(j.n, 0), coalesce(j.last, 0)) or (j.period > 0 and j.first <> 1)
union all
select 'totals', null, j.meter_id::text,
       format('meter %s/%s/%s/%s/%s/%s, journal %s/%s/%s/%s/%s/%s', j.spent_paid, j.spent_promo, j.share, j.fee, j.tax,
              j.loss, j.paid, j.promo, j.lines_share, j.lines_fee, j.lines_tax, j.lines_loss)
from judged j
where (j.spent_paid, j.spent_promo, j.share, j.fee, j.tax, j.loss) is distinct from
      (coalesce(j.paid, 0), coalesce(j.promo, 0), coalesce(j.lines_share, 0), coalesce(j.lines_fee, 0),
       coalesce(j.lines_tax, 0), coalesce(j.lines_loss, 0))
union all
select 'fee', null, j.meter_id::text, format('commission due %s, tax due %s (1/10000 coins)', j.fee_due, j.tax_due)
from judged j
where ((j.fee + j.tax) * 10000 + j.fee_remainder, j.tax * 10000 + j.tax_remainder)
      is distinct from (coalesce(j.fee_due, 0), coalesce(j.tax_due, 0))
union all
select l.fault, null, l.meter_id || ' ' || l.period, format('price %s at %s', l.price, l.at_ms)
from (
    select l.*,
           case when l.share + l.fee + l.tax <> l.price or l.promo not between 0 and l.price then 'parts'
                when l.price is distinct from l.terms_price then 'price'
                when l.back < l.price and (c.ended_ms <= l.at_ms or c.started_ms is null) then 'after_end'
                when l.at_ms < c.started_ms or (not l.new_terms and l.at_ms < l.before_ms + l.before_length_ms) then 'early'
                when l.back > l.price or l.back_promo > l.promo or l.back - l.back_promo > l.price - l.promo
                    then 'refunds' end as fault
    from lines l join chosen c using (meter_id)
) l
where l.fault is not null
