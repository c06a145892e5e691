-- In: $1 now in ms or null, $2.. parallel arrays of transfers. Out: outcomes; see billing.post_transfers.
select transfer_id, outcome, code, promo, fee
from billing.post_transfers(
    $1::bigint, $2::uuid[], $3::text[]::billing.transfer_kind[], $4::text[]::billing.account[], $5::bigint[],
    $6::text[]::billing.account[], $7::bigint[], $8::bigint[], $9::text[]::billing.bucket[], $10::int[], $11::text[],
    $12::uuid[])
