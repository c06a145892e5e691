-- Proof of life: silence is never charged, blindness ends no call, and nobody talks for nothing for long.

-- When the side that was heard longer ago was last heard; null when nothing is known of a side.
create function billing.both_heard(p billing.meter_proofs) returns bigint
language sql immutable
return case when p.payer_heard_ms is not null and p.payee_heard_ms is not null
            then least(p.payer_heard_ms, p.payee_heard_ms) end;

-- The last moment at which both sides are known to have been there, within what the meter has run since it last went
-- on. Without any evidence it is the moment that is funded: silence is not presumed.
create function billing.last_proof(m billing.meters, p billing.meter_proofs) returns bigint
language sql immutable
return least(m.due_ms, greatest(coalesce(billing.both_heard(p), m.due_ms), m.running_since_ms));

-- Which side somebody heard to be silent for longer than p_ms; null when none is. Evidence is a report that came
-- later than the last sign of life: that nobody reports is no evidence.
create function billing.silent_side(p billing.meter_proofs, p_ms bigint) returns billing.meter_side
language sql immutable
return case when p.payer_seen_ms - p.payer_heard_ms > p_ms and p.payee_seen_ms - p.payee_heard_ms > p_ms
                then 'both'::billing.meter_side
            when p.payer_seen_ms - p.payer_heard_ms > p_ms then 'payer'::billing.meter_side
            when p.payee_seen_ms - p.payee_heard_ms > p_ms then 'payee'::billing.meter_side end;

-- In: a locked, running meter without fresh proof of life. Effect: it is suspended at the last proof, its funded rest
-- kept; or it ends there, when a side is known to be gone for longer than the grace, or when it paused too often.
create function billing.suspend(p_now bigint, p_meter uuid) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    m meters;
    p meter_proofs;
    v_at bigint;
    v_silent meter_side;
begin
    select * into strict m from meters where meter_id = p_meter;
    select * into p from meter_proofs where meter_id = p_meter;
    v_at := least(last_proof(m, p), p_now);
    v_silent := silent_side(p, m.grace_ms / 2);
    if silent_side(p, m.grace_ms) is not null or m.pauses >= 3 then
        perform lose(p_now, p_meter, v_at, v_silent);
        return;
    end if;
    update meters
    set state = 'suspended', slot = null, suspended_ms = v_at, paused_from_ms = p_now, pauses = pauses + 1
    where meter_id = p_meter;
    insert into meter_pauses (meter_id, seq, from_ms, cause, side)
    select p_meter, coalesce(max(seq), 0) + 1, v_at, case when v_silent is null then 'blind' else 'silent' end, v_silent
    from meter_pauses where meter_id = p_meter;
    insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind, side)
    values (p_meter, v_at, m.due_ms, m.price, m.period, 'suspended', v_silent);
end
$$;

create function billing.lose(p_now bigint, p_meter uuid, p_at bigint, p_side billing.meter_side) returns void
language plpgsql set search_path = billing, pg_temp as $$
begin
    perform finish(p_now, p_meter, p_at, 'lost', p_side);
    insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind, side)
    select p_meter, p_at, due_ms, price, period, 'lost', p_side from meters where meter_id = p_meter;
end
$$;

-- Suspended meters: go on when both sides are heard again (the funded rest comes back as time), end at the last proof
-- when a side is silent for longer than the grace or the meter was paused for a minute. In: how many at most.
create function billing.watch_suspended(p_now bigint, p_limit int) returns int
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_resumed uuid[];
    v_lost uuid[];
begin
    with suspended as (
        select m.meter_id, p,
               silent_side(p, m.grace_ms) is null and coalesce(both_heard(p) >= p_now - m.grace_ms / 2, false) as fresh
        from meters m left join meter_proofs p using (meter_id)
        where m.state = 'suspended'
          and (silent_side(p, m.grace_ms) is not null or m.paused_ms + p_now - m.paused_from_ms > 60000
               or coalesce(both_heard(p) >= p_now - m.grace_ms / 2, false))
        limit p_limit for no key update of m skip locked
    )
    select array_agg(meter_id) filter (where fresh), array_agg(meter_id) filter (where not fresh)
    into v_resumed, v_lost from suspended;
    perform resume(p_now, x) from unnest(v_resumed) x;
    if v_lost is not null then
        perform lose(p_now, m.meter_id, m.suspended_ms, coalesce(silent_side(p, m.grace_ms), silent_side(p, m.grace_ms / 2)))
        from unnest(lock_for_end(v_lost)) x join meters m on m.meter_id = x left join meter_proofs p on p.meter_id = x;
    end if;
    return coalesce(cardinality(v_resumed), 0) + coalesce(cardinality(v_lost), 0);
end
$$;

-- In: a locked, suspended meter. Effect: it goes on, what was funded and not used moved along.
create function billing.resume(p_now bigint, p_meter uuid) returns void
language plpgsql set search_path = billing, pg_temp as $$
begin
    update meters
    set state = 'running', running_since_ms = p_now, due_ms = p_now + due_ms - suspended_ms,
        slot = slot_of(p_now + due_ms - suspended_ms, pulse_ms),
        paused_ms = paused_ms + greatest(p_now - paused_from_ms, 0), suspended_ms = null, paused_from_ms = null
    where meter_id = p_meter;
    update meter_pauses set until_ms = p_now where meter_id = p_meter and until_ms is null;
    insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind)
    select p_meter, p_now, due_ms, price, period, 'resumed' from meters where meter_id = p_meter;
    perform warn(p_now, p_meter, null);
end
$$;

-- In: meters, and for each side how long ago it was heard (null: nothing said of it). Effect: bulk liveness. A side
-- reported silent for longer than half the grace suspends its meter at once; one whose row is locked is left to the tick.
create function billing.prove(p_now bigint, p_meters uuid[], p_payer_ago int[], p_payee_ago int[]) returns void
language plpgsql security definer
set search_path = billing, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_now bigint := moment(p_now);
    v_count int;
    v_silent uuid[];
    v_ending uuid[];
begin
    update meter_proofs p
    set payer_heard_ms = case when r.payer_ago is null then p.payer_heard_ms
                              else greatest(p.payer_heard_ms, v_now - r.payer_ago) end,
        payer_seen_ms = case when r.payer_ago is null then p.payer_seen_ms else greatest(p.payer_seen_ms, v_now) end,
        payee_heard_ms = case when r.payee_ago is null then p.payee_heard_ms
                              else greatest(p.payee_heard_ms, v_now - r.payee_ago) end,
        payee_seen_ms = case when r.payee_ago is null then p.payee_seen_ms else greatest(p.payee_seen_ms, v_now) end
    from (select * from unnest(p_meters, p_payer_ago, p_payee_ago) as u (meter_id, payer_ago, payee_ago)
          order by meter_id) r
    where p.meter_id = r.meter_id;
    get diagnostics v_count = row_count;
    if v_count < cardinality(p_meters) then
        -- The evidence went with a crash, or the meter is over. What is unknown of a side stays unknown.
        insert into meter_proofs
        select u.meter_id, v_now - u.payer_ago, case when u.payer_ago is not null then v_now end,
               v_now - u.payee_ago, case when u.payee_ago is not null then v_now end
        from unnest(p_meters, p_payer_ago, p_payee_ago) as u (meter_id, payer_ago, payee_ago)
        join meters m on m.meter_id = u.meter_id and m.state in ('running', 'suspended')
        order by u.meter_id
        on conflict do nothing;
    end if;
    select array_agg(x.meter_id), array_agg(x.meter_id) filter (where x.ends) into v_silent, v_ending
    from (
        select m.meter_id, m.pauses >= 3 or silent_side(p, m.grace_ms) is not null as ends
        from (select * from unnest(p_meters, p_payer_ago, p_payee_ago) as u (meter_id, payer_ago, payee_ago)
              where greatest(payer_ago, payee_ago) > 1000 order by meter_id) r
        join meters m on m.meter_id = r.meter_id
        join meter_proofs p on p.meter_id = r.meter_id
        where m.state = 'running' and greatest(r.payer_ago, r.payee_ago) > m.grace_ms / 2
          and silent_side(p, m.grace_ms / 2) is not null
        for no key update of m skip locked
    ) x;
    perform suspend(v_now, x) from unnest(v_silent) x where x <> all (coalesce(v_ending, '{}'));
    if v_ending is not null then
        perform suspend(v_now, x) from unnest(lock_for_end(v_ending)) x;
    end if;
end
$$;
grant execute on function billing.prove to talkmeter_app;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
