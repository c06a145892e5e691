-- In: $1 $2 a range of ids, $3 charges in a block. Out: the first meters of blocks of about that many charges, in order; a
-- meter's charges stay together.
select distinct meter_id
from (select c.meter_id, row_number() over (order by c.meter_id, c.period) as n
      from billing.charges c where c.meter_id >= $1 and c.meter_id < $2) x
where (n - 1) % $3::int = 0
order by meter_id
