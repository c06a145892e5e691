-- In: $1 partition, $2 $3 $4 $5 arrays: first ids, offsets, lengths, checksums. Effect: the blocks of its file, in place of
-- those of an earlier export.
with gone as (
    delete from billing.archive_blocks where partition = $1 and first_id <> all ($2::uuid[])
)
insert into billing.archive_blocks (partition, first_id, at_byte, bytes, sha256)
select $1, u.* from unnest($2::uuid[], $3::bigint[], $4::int[], $5::text[]) as u
on conflict (partition, first_id)
do update set at_byte = excluded.at_byte, bytes = excluded.bytes, sha256 = excluded.sha256
