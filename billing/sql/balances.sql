-- In: $1 user ids. Out: their balances as of one moment; shares of running meters count as earned.
select user_id, paid, promo, earned::bigint as earned, v::bigint as v
from billing.balances
where user_id = any ($1::bigint[])
