-- Tariffs as versioned data: per tenant, and per host where he has his own. A version is never changed.

create table billing.tariffs (
    tenant_id int not null,
    host_id bigint not null, -- 0: the tenant's own
    subject text not null check (subject in ('voice', 'video', 'chat', 'gift')),
    version int not null check (version >= 1),
    from_ms bigint not null,
    tariff jsonb not null,
    actor text not null,
    primary key (tenant_id, host_id, subject, version)
);
create trigger append_only before update or delete on billing.tariffs
    for each row execute function billing.refuse_change();

-- In: whose, for what, from when on, the terms. Effect: the next version. Out: its number; that of the last one when its
-- terms and time are the same.
create function billing.publish_tariff(
    p_tenant int, p_host bigint, p_subject text, p_from bigint, p_tariff jsonb, p_actor text
) returns int
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_last tariffs;
begin
    perform pg_advisory_xact_lock(hashtextextended(format('tariff %s %s %s', p_tenant, p_host, p_subject), 0));
    select * into v_last from tariffs where tenant_id = p_tenant and host_id = p_host and subject = p_subject
    order by version desc limit 1;
    if v_last.tariff = p_tariff and v_last.from_ms = p_from then
        return v_last.version;
    end if;
    insert into tariffs (tenant_id, host_id, subject, version, from_ms, tariff, actor)
    values (p_tenant, p_host, p_subject, coalesce(v_last.version, 0) + 1, p_from, p_tariff, p_actor);
    return coalesce(v_last.version, 0) + 1;
end
$$;
grant execute on function billing.publish_tariff to talkmeter_app;
grant select on billing.tariffs to talkmeter_app;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
