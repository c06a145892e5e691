-- Partitions of charges: a month each, by the 48 bits of time at the front of the meter's id.

-- First id that a moment can have.
create function billing.first_id(p_moment timestamptz) returns uuid
language sql immutable
return (lpad(to_hex((extract(epoch from p_moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- In: the time, and how many months ahead. Effect: partitions for this month and those exist. Does nothing mostly.
-- Made beside the table and attached, which lets ticks go on; a month whose charges went to the default partition before
-- stays there.
create function billing.make_partitions(p_now bigint, p_months int) returns int
language plpgsql security definer set search_path = billing, pg_temp set lock_timeout = '2s' as $$
declare
    v_month timestamptz := date_trunc('month', to_timestamp(moment(p_now) / 1000), 'UTC');
    v_next timestamptz;
    v_name text;
    v_made int := 0;
begin
    for i in 0..least(p_months, 24) loop
        v_next := (v_month at time zone 'UTC' + interval '1 month') at time zone 'UTC';
        v_name := 'charges_' || to_char(v_month at time zone 'UTC', 'YYYYMM');
        if to_regclass('billing.' || v_name) is null
           and not exists (select from archives where partition = v_name) then
            begin
                execute format('create table billing.%I (like billing.charges including all)', v_name);
                execute format('alter table billing.charges attach partition billing.%I for values from (%L) to (%L)',
                               v_name, first_id(v_month), first_id(v_next));
                execute format('grant select on billing.%I to talkmeter_app', v_name);
                v_made := v_made + 1;
            exception
                when check_violation or duplicate_table or lock_not_available then
                    raise notice 'partition % is not made now: %', v_name, sqlerrm;
            end;
        end if;
        v_month := v_next;
    end loop;
    return v_made;
end
$$;

-- Closed months that were written to an archive file, and what they added up to: the audit goes on from these figures.
create table billing.archives (
    partition text primary key,
    at_ms bigint not null,
    from_id uuid not null,
    to_id uuid not null,
    meters bigint not null,
    charges bigint not null,
    coins numeric not null,
    promo numeric not null,
    share numeric not null,
    fee numeric not null,
    tax numeric not null,
    file text not null,
    sha256 text not null,
    dropped_ms bigint
);
create trigger append_only before delete on billing.archives for each row execute function billing.refuse_change();

-- Where in its file an archived meter's charges are: in the block with the highest first_id that is not above its id. Each
-- block can be read, checked and unpacked by itself, so that a receipt reads a few hundred kilobytes of a month.
create table billing.archive_blocks (
    partition text not null references billing.archives,
    first_id uuid not null,
    at_byte bigint not null check (at_byte >= 0),
    bytes int not null check (bytes > 0),
    sha256 text not null,
    primary key (partition, first_id)
);

-- In: a meter. Out: the file of its charges and its block there, when they have left the database; else null.
create function billing.archived_at(p_meter uuid) returns jsonb
language sql stable
return (
    select jsonb_build_object('file', a.file, 'at_byte', b.at_byte, 'bytes', b.bytes, 'sha256', b.sha256)
    from billing.archives a
    join lateral (select x.* from billing.archive_blocks x
                  where x.partition = a.partition and x.first_id <= p_meter
                  order by x.first_id desc limit 1) b on true
    where a.dropped_ms is not null and p_meter >= a.from_id and p_meter < a.to_id
);
grant execute on function billing.archived_at to talkmeter_app;

-- In: an archived partition whose file was checked. Effect: it leaves the database; the archive's record says when. For
-- the owner only. Waits a moment for the table's lock and gives up rather than hold up the ticks.
create function billing.drop_partition(p_now bigint, p_partition text) returns void
language plpgsql set search_path = billing, pg_temp set lock_timeout = '2s' as $$
begin
    update archives set dropped_ms = moment(p_now) where partition = p_partition and dropped_ms is null;
    if not found then
        raise exception '% was not archived', p_partition using errcode = 'TM008';
    end if;
    execute format('alter table billing.charges detach partition billing.%I', p_partition);
    execute format('drop table billing.%I', p_partition);
end
$$;

grant execute on function billing.make_partitions to talkmeter_app;
grant select on billing.archives, billing.archive_blocks to talkmeter_app;
select billing.make_partitions(null, 3);
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
