-- In: $1 partition, $2 now in ms or null, $3 $4 its range of ids, $5 meters, $6 charges, $7.. sums of coins, promotional
-- part, share, fee, tax, $12 file, $13 checksum. Effect: the archive's record. Again with the same file does nothing.
insert into billing.archives (partition, at_ms, from_id, to_id, meters, charges, coins, promo, share, fee, tax, file, sha256)
values ($1, billing.moment($2::bigint), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
on conflict (partition) do update set at_ms = excluded.at_ms, file = excluded.file, sha256 = excluded.sha256
where billing.archives.dropped_ms is null
