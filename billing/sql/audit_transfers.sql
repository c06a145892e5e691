-- In: $1 transfer id after which to look, $2 how many. Out: faults; one row says how far the look went (fault null).
-- Faults: entries (parts that cannot be entries which add up to zero), commission (off by its rule), corrected (corrections
-- give back more than the transfer), hold (escrow differs from the hold).
with chosen as materialized (
    select t.* from billing.transfers t where t.transfer_id > $1 order by t.transfer_id limit $2
), span as (
    select (array_agg(transfer_id order by transfer_id desc))[1] as high, count(*) as n from chosen
)
select null::text as fault, (select n from span) as examined, (select high from span)::text as key, null::text as detail
union all
select 'entries', null, c.transfer_id::text, format('%s coins, %s promo, %s fee', c.coins, c.promo, c.fee)
from chosen c
where c.coins < 1 or c.fee not between 0 and c.coins or c.promo not between 0 and c.coins
   or (c.fee > 0 and c.credit <> 'earnings') or (c.promo > 0 and c.debit <> 'wallet' and c.credit <> 'wallet')
union all
select 'commission', null, c.transfer_id::text, format('fee %s of %s coins at %s', c.fee, c.coins, c.fee_bp)
from chosen c where c.fee <> case when c.refused is null then div(c.coins::numeric * c.fee_bp, 10000) else 0 end
union all
select 'corrected', null, c.transfer_id::text, 'corrections give back more'
from chosen c
where (select sum(x.coins) from billing.transfers x where x.corrects = c.transfer_id and x.refused is null) > c.coins
union all
select 'hold', null, c.transfer_id::text, format('%s coins, hold %s', c.coins, h.state)
from chosen c
left join billing.holds h on h.hold_id = c.transfer_id
where c.kind = 'hold' and c.refused is null
  and (h.hold_id is null or h.coins <> c.coins or h.promo <> c.promo
       or case when h.state = 'pending' then 0 else h.coins end <>
          (select coalesce(sum(x.coins), 0) from billing.transfers x
           where x.transfer_id in (billing.derived_id(h.hold_id, 'post'), billing.derived_id(h.hold_id, 'void:paid'),
                                   billing.derived_id(h.hold_id, 'void:promo'))))
