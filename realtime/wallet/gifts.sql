-- Statements of realtime/wallet/store.py.

-- name: gifts
-- In: tenant. Out: the gifts that its users can send, cheapest first.
select gift_id, name, emoji, price_coins from (
    select distinct on (gift_id) gift_id, name, emoji, price_coins, active
    from realtime.gifts where tenant_id in (0, $1) order by gift_id, tenant_id desc
) offered
where active order by price_coins, gift_id

-- name: gift
-- In: tenant, gift id. Out: that gift, or nothing when it is not offered.
select gift_id, name, emoji, price_coins from (
    select * from realtime.gifts where tenant_id in (0, $1) and gift_id = $2 order by tenant_id desc limit 1
) mine
where active
