-- In: $1 how many users, $2 coins for each, $3 now in ms. Effect: wallets and the grants that fill them, in tenant 1.
with users as (
    insert into billing.spending_wallets (user_id, tenant_id, paid, v)
    select n, 1, $2, 1 from generate_series(1, $1::bigint) n
), hosts as (
    insert into billing.earning_wallets (user_id, tenant_id) select n, 1 from generate_series(1, $1::bigint) n
)
insert into billing.transfers (transfer_id, at_ms, debit_owner, credit_owner, coins, promo, fee, tenant_id, fee_bp, kind,
                               debit, credit, bucket, reason)
select (lpad(to_hex($3::bigint - 1000000 + n), 12, '0') || '7000' || '8' || substr(md5(n::text), 1, 15))::uuid, $3, 1, n,
       $2, 0, 0, 1, 0, 'grant', 'sales', 'wallet', 'paid', 'seed'
from generate_series(1, $1::bigint) n
