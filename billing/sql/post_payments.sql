-- In: $1 now in ms or null, $2.. parallel arrays of payments. Out: outcomes; see billing.post_payments.
select transfer_id, outcome, code, promo, fee
from billing.post_payments(
    $1::bigint, $2::uuid[], $3::text[]::billing.transfer_kind[], $4::bigint[], $5::bigint[], $6::bigint[], $7::int[],
    $8::text[])
