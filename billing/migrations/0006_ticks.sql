-- The tick, the hang-up, and what is done to a running meter by hand.

-- In: the time, how many at most, the slots to look into (all 600 for a sweep; pulses that are no whole minutes and
-- suspended meters are always looked at), and optionally the only meters to touch.
-- Effect: due meters are charged their next pulse, each once, however many workers call this: claimed, debited,
-- journaled, advanced and announced by one statement. A meter more than a minute overdue was not ticked because of us:
-- the gap is waived, the pulse starts now. Meters without fresh proof of life are suspended, those that cannot pay end
-- at the funded moment. The host's share is kept in the meter and reaches his wallet at its end.
-- Rows flow through the locks (meters, then spending wallets by user id), no intermediate results are joined. The wallet
-- is checked and debited by one update; last_promo brings back which coins it took.
-- Out: how many meters were handled.
create function billing.tick(p_now bigint, p_limit int, p_slots smallint[], p_only uuid[])
returns int
language plpgsql security definer
set search_path = billing, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_now bigint := moment(p_now);
    v_handled int;
    v_claimed uuid[];
    v_unproved uuid[];
    v_ending uuid[];
    v_paid int;
    v_charged int;
    v_advanced int;
    v_fresh int;
begin
    with phased as materialized (
        select m.meter_id, m.payer_id, m.price, m.due_ms, m.period, m.fee_remainder, m.tax_remainder, m.pulse_ms,
               m.low_next_ms, m.low_told_ms, m.grace_ms, m.fee_bp, m.tax_bp, m.slot, m.running_since_ms
        from meters m
        where m.state = 'running' and m.slot = any (p_slots) and m.due_ms <= v_now
          and (p_only is null or m.meter_id = any (p_only))
        limit p_limit for no key update skip locked
    ), timed as materialized (
        select m.meter_id, m.payer_id, m.price, m.due_ms, m.period, m.fee_remainder, m.tax_remainder, m.pulse_ms,
               m.low_next_ms, m.low_told_ms, m.grace_ms, m.fee_bp, m.tax_bp, m.slot, m.running_since_ms
        from meters m
        where m.timer_ms <= v_now
          and (p_only is null or m.meter_id = any (p_only))
        order by m.timer_ms limit p_limit for no key update skip locked
    ), claimed as materialized (
        select c.*, coalesce(p.payer_heard_ms >= v_now - c.grace_ms / 2 and p.payee_heard_ms >= v_now - c.grace_ms / 2,
                             false) as fresh
        from (select * from phased union all select * from timed) c
        left join meter_proofs p on p.meter_id = c.meter_id
    ), paid as materialized (
        update spending_wallets w
        set last_promo = least(w.promo, c.price), promo = w.promo - least(w.promo, c.price),
            paid = w.paid - (c.price - least(w.promo, c.price)), v = w.v + 1
        from (select x.* from (
                  select q.*, q.fee_remainder + q.price * q.fee_bp as fee_n,
                         case when v_now - q.due_ms > 60000 then v_now else q.due_ms end as begins_ms,
                         row_number() over (partition by q.payer_id order by q.meter_id) as turn
                  from claimed q where q.fresh) x
              where x.turn = 1 order by x.payer_id) c
        where w.user_id = c.payer_id and w.paid + w.promo >= c.price and not w.restricted
        returning c.meter_id, c.period + 1 as period, c.price, c.due_ms, c.begins_ms, c.begins_ms + c.pulse_ms as next_ms,
                  c.pulse_ms, c.slot, c.running_since_ms, w.last_promo as promo, w.paid + w.promo as remains,
                  c.low_next_ms, c.low_told_ms,
                  least(least((w.paid + w.promo) / c.price, 1000000) * c.pulse_ms + c.pulse_ms, 2147483647) as left_ms,
                  c.fee_n / 10000 as gross, (c.fee_n % 10000)::int as fee_remainder,
                  c.tax_remainder + c.fee_n / 10000 * c.tax_bp as tax_n
    ), charged as (
        insert into charges (meter_id, period, at_ms, price, promo, share, fee, tax)
        select f.meter_id, f.period, f.begins_ms, f.price, f.promo, f.price - f.gross, f.gross - f.tax_n / 10000,
               f.tax_n / 10000
        from paid f
        returning 1
    ), looked as materialized (
        select f.*, case when f.remains < f.price or f.left_ms not between f.low_next_ms + 1 and f.low_told_ms
                         then band_of(f.meter_id, f.left_ms, f.remains < f.price) end as band
        from paid f
    ), advanced as (
        update meters m
        set period = f.period, due_ms = f.next_ms,
            slot = case when f.begins_ms = f.due_ms then f.slot else slot_of(f.next_ms, f.pulse_ms) end,
            running_since_ms = case when f.begins_ms = f.due_ms then f.running_since_ms else f.begins_ms end,
            fee_remainder = f.fee_remainder, tax_remainder = f.tax_n % 10000,
            spent_paid = m.spent_paid + f.price - f.promo, spent_promo = m.spent_promo + f.promo,
            share = m.share + f.price - f.gross, fee = m.fee + f.gross - f.tax_n / 10000, tax = m.tax + f.tax_n / 10000,
            v = m.v + 1,
            low_next_ms = case when f.band is null then m.low_next_ms else (f.band).next_ms end,
            low_told_ms = case when f.band is null then m.low_told_ms else (f.band).told_ms end
        from looked f where m.meter_id = f.meter_id
        returning 1
    ), announced as (
        insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind, threshold_ms)
        select f.meter_id, f.begins_ms, f.next_ms, f.price, f.period, 'late_waived'::event_kind, null::int from paid f
        where f.begins_ms <> f.due_ms
        union all
        select f.meter_id, f.begins_ms, f.next_ms, f.price, f.period, 'charged', null from paid f
        union all
        select f.meter_id, f.begins_ms, f.next_ms, f.price, f.period, 'low_balance', (f.band).told_ms from looked f
        where (f.band).told_ms < f.low_told_ms or f.remains < f.price
    ), late as (
        insert into meter_pauses (meter_id, seq, from_ms, until_ms, cause)
        select f.meter_id, 1 + coalesce((select max(seq) from meter_pauses q where q.meter_id = f.meter_id), 0), f.due_ms,
               f.begins_ms, 'late'
        from paid f where f.begins_ms <> f.due_ms
    )
    select count(*), count(*) filter (where c.fresh), array_agg(c.meter_id) filter (where c.fresh),
           array_agg(c.meter_id) filter (where not c.fresh),
           (select count(*) from paid), (select count(*) from charged), (select count(*) from advanced)
    into v_handled, v_fresh, v_claimed, v_unproved, v_paid, v_charged, v_advanced
    from claimed c;
    if (v_paid, v_paid) is distinct from (v_charged, v_advanced) then
        raise exception 'tick: % payments, % charges, % meters', v_paid, v_charged, v_advanced;
    end if;
    -- Those that end take more wallets; none of them is waited for here.
    if v_paid < v_fresh or v_unproved is not null then
        select array_agg(m.meter_id) into v_ending
        from meters m
        left join meter_proofs p using (meter_id)
        join spending_wallets w on w.user_id = m.payer_id
        where m.meter_id = any (v_claimed) and m.due_ms <= v_now and (w.restricted or w.paid + w.promo < m.price)
           or m.meter_id = any (v_unproved) and (m.pauses >= 3 or silent_side(p, m.grace_ms) is not null);
        perform suspend(v_now, x) from unnest(v_unproved) x where x <> all (coalesce(v_ending, '{}'));
        perform case when x = any (v_unproved) then suspend(v_now, x) else exhaust(v_now, x) end
        from unnest(lock_for_end(v_ending)) x;
    end if;
    return v_handled + case when p_only is null then watch_suspended(v_now, p_limit) else 0 end;
end
$$;
grant execute on function billing.tick to talkmeter_app;

-- In: the time, how many at most, and the time of the caller's last round (null: never). Effect: a tick over the slots
-- that fell due since then. Out: how many were handled, and the time to hand in next.
create function billing.tick_since(p_now bigint, p_limit int, p_since bigint, out handled int, out now_ms bigint)
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_first bigint;
begin
    now_ms := moment(p_now);
    v_first := greatest(coalesce(p_since, 0) / 100 - 3, now_ms / 100 - 599); -- a little over: rows that were locked then
    handled := tick(now_ms, p_limit,
                    array(select (n % 600)::smallint from generate_series(least(v_first, now_ms / 100), now_ms / 100) n),
                    null);
end
$$;
grant execute on function billing.tick_since to talkmeter_app;

-- In: a locked, due meter whose next pulse cannot be paid. Effect: it ends at the funded moment.
create function billing.exhaust(p_now bigint, p_meter uuid) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    m meters;
begin
    select * into strict m from meters where meter_id = p_meter;
    perform finish(p_now, p_meter, m.due_ms, 'exhausted', null);
    insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind)
    values (p_meter, m.due_ms, m.due_ms, m.price, m.period, 'exhausted');
end
$$;

-- Which meters a tick would claim: for isolating one that fails.
create function billing.due_meters(p_now bigint, p_limit int) returns setof uuid
language sql stable security definer
begin atomic
    select meter_id from billing.meters where state = 'running' and due_ms <= p_now order by due_ms limit p_limit;
end;
grant execute on function billing.due_meters to talkmeter_app;

-- In: a meter that failed by an unexpected error. Effect: it is noted and charged no more until it is put back or stopped.
create function billing.set_aside(p_now bigint, p_meter uuid, p_error text) returns void
language plpgsql security definer set search_path = billing, pg_temp as $$
begin
    insert into meter_faults (meter_id, at_ms, error) values (p_meter, moment(p_now), left(p_error, 1000))
    on conflict (meter_id) do update set attempts = meter_faults.attempts + 1, error = excluded.error;
    update meters set state = 'faulted', slot = null where meter_id = p_meter and state = 'running';
end
$$;
grant execute on function billing.set_aside to talkmeter_app;

-- In: a meter that was set aside, when its cause is gone. Effect: it runs again.
create function billing.put_back(p_meter uuid) returns void
language plpgsql security definer set search_path = billing, pg_temp as $$
begin
    update meters set state = 'running', slot = slot_of(due_ms, pulse_ms) where meter_id = p_meter and state = 'faulted';
    delete from meter_faults where meter_id = p_meter;
end
$$;
grant execute on function billing.put_back to talkmeter_app;

-- In: a meter, why, and how long ago the hang-up was sent (at most 5 s count). Effect: the meter ends at that moment,
-- or at the last proof of life when a side was not heard since for half the grace. Pulses that fell due before it and
-- that no tick has reached yet are charged first, so that the bill does not depend on the worker's haste; more than a
-- minute of them was our outage and is waived. Once: later calls change nothing.
create function billing.stop_meter(p_now bigint, p_meter uuid, p_reason text, p_ago int) returns void
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_now bigint := moment(p_now);
    v_at bigint;
    m meters;
    p meter_proofs;
begin
    select * into m from meters where meter_id = p_meter for no key update;
    if not found then
        raise exception 'no meter %', p_meter using errcode = 'TM005';
    elsif m.state = 'ended' then
        return;
    elsif m.state = 'open' then
        update meters set state = 'ended', ended_ms = greatest(v_now, opened_ms), reason = p_reason
        where meter_id = p_meter;
        return;
    end if;
    select * into p from meter_proofs where meter_id = p_meter;
    v_at := v_now - least(greatest(p_ago, 0), 5000);
    if m.state = 'suspended' then
        v_at := least(v_at, m.suspended_ms);
    elsif both_heard(p) < v_now - m.grace_ms / 2 then
        v_at := least(v_at, last_proof(m, p));
    end if;
    if m.state = 'faulted' then
        v_at := least(v_at, m.due_ms);
    end if;
    v_at := greatest(v_at, m.started_ms);
    if m.state = 'running' and m.due_ms < v_at then
        if not catch_up(p_meter, v_at) then
            return;
        end if;
        select least(v_at, due_ms) into strict v_at from meters where meter_id = p_meter;
    end if;
    perform finish(v_now, p_meter, v_at, p_reason, null);
end
$$;
grant execute on function billing.stop_meter to talkmeter_app;

-- In: a locked, running meter and a moment. Effect: pulses due before that moment are charged, at most a minute of
-- them. Out: false when the meter ended on the way, for want of coins.
create function billing.catch_up(p_meter uuid, p_until bigint) returns boolean
language plpgsql set search_path = billing, pg_temp as $$
declare
    m meters;
begin
    for i in 1..60 loop -- a minute of the shortest pulse
        select * into strict m from meters where meter_id = p_meter;
        exit when m.due_ms >= p_until or p_until - m.due_ms > 60000;
        if not charge(p_meter, m.price, m.due_ms, m.due_ms + m.pulse_ms) then
            perform exhaust(p_until, p_meter);
            return false;
        end if;
        insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind)
        values (p_meter, m.due_ms, m.due_ms + m.pulse_ms, m.price, m.period + 1, 'charged');
    end loop;
    return true;
end
$$;

-- In: a running meter and new terms (voice to video). Effect: the unused part of the running pulse is given back by
-- time, a pulse of the new terms begins now, remainders are carried on. Out: running | insufficient_funds (then nothing
-- has changed) | suspended | ended | open.
create function billing.rerate_meter(
    p_now bigint, p_meter uuid, p_price bigint, p_pulse_ms int, p_fee_bp int, p_tax_bp int, p_tariff jsonb
) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_now bigint := moment(p_now);
    v_back bigint := 0;
    v_unused bigint;
    v_length bigint;
    v_funds bigint;
    m meters;
begin
    select * into m from meters where meter_id = p_meter for no key update;
    if not found then
        raise exception 'no meter %', p_meter using errcode = 'TM005';
    elsif m.state <> 'running' then
        return m.state;
    end if;
    select paid + promo into strict v_funds from spending_wallets where user_id = m.payer_id for no key update;
    v_now := greatest(v_now, m.running_since_ms);
    if m.due_ms < v_now then
        if not catch_up(p_meter, v_now) then
            return 'ended';
        end if;
        select * into strict m from meters where meter_id = p_meter;
        select paid + promo into strict v_funds from spending_wallets where user_id = m.payer_id;
    end if;
    v_length := period_ms(p_meter, m.period);
    v_unused := greatest(m.due_ms - v_now, 0);
    v_back := least(kept_of(p_meter, m.period),
                    (select price from charges where meter_id = p_meter and period = m.period)
                    * least(v_unused, v_length) / v_length);
    if v_funds + v_back < p_price then
        return 'insufficient_funds';
    end if;
    if v_back > 0 then
        perform give_back(v_now, derived_id(p_meter, 'rerated:' || m.period), p_meter, m.period, v_back, 'rerated');
    end if;
    insert into meter_rates (meter_id, from_period, at_ms, price, pulse_ms, first_price, first_ms, fee_bp, tax_bp, tariff,
                             cut_ms)
    values (p_meter, m.period + 1, v_now, p_price, p_pulse_ms, p_price, p_pulse_ms, p_fee_bp, p_tax_bp, p_tariff,
            least(v_unused, v_length));
    update meters set price = p_price, pulse_ms = p_pulse_ms, fee_bp = p_fee_bp, tax_bp = p_tax_bp,
                      low_next_ms = -1, low_told_ms = 2147483647
    where meter_id = p_meter;
    v_now := v_now + greatest(v_unused - v_length, 0); -- what is left of the free seconds
    if not charge(p_meter, p_price, v_now, v_now + p_pulse_ms) then
        raise exception 'meter % cannot be re-rated: its payer is restricted', p_meter using errcode = 'TM007';
    end if;
    perform warn(v_now, p_meter, 0);
    return 'running';
end
$$;
grant execute on function billing.rerate_meter to talkmeter_app;

-- In: one charge, coins (null: what is left of it), an id, who and why. Effect: a refund and its audit trail. Out: done |
-- replayed | conflict | no_charge | exceeds.
create function billing.refund_charge(
    p_now bigint, p_refund uuid, p_meter uuid, p_period int, p_coins bigint, p_actor text, p_reason text
) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_now bigint := moment(p_now);
    v_left bigint;
    v_payer bigint;
    v_old charge_refunds;
begin
    select payer_id into v_payer from meters where meter_id = p_meter for no key update;
    select * into v_old from charge_refunds where refund_id = p_refund;
    if v_old.refund_id is not null then
        return case when (v_old.meter_id, v_old.period, v_old.reason) = (p_meter, p_period, p_reason)
                         and (p_coins is null or p_coins = v_old.coins) then 'replayed' else 'conflict' end;
    end if;
    v_left := kept_of(p_meter, p_period);
    if v_payer is null or v_left is null then
        return 'no_charge';
    elsif v_left = 0 or p_coins > v_left then
        return 'exceeds';
    end if;
    perform from spending_wallets where user_id = v_payer for no key update;
    perform give_back(v_now, p_refund, p_meter, p_period, coalesce(p_coins, v_left), p_reason);
    insert into audit_trail (at_ms, actor, action, subject_user, reference, coins, reason)
    values (v_now, p_actor, 'refund_charge', v_payer, p_refund, coalesce(p_coins, v_left), p_reason);
    perform warn_payers(v_now, array[v_payer], array[coalesce(p_coins, v_left)]);
    return 'done';
end
$$;
grant execute on function billing.refund_charge to talkmeter_app;

-- In: how many at most. Effect: the oldest events are deleted in the caller's transaction and returned: a rollback puts
-- them back. Events that another consumer holds are passed over. Balances, and when the money will run out, are those of
-- this moment, never older than the event: their version tells.
create function billing.take_events(p_limit int)
returns table (event_id bigint, kind billing.event_kind, meter_id uuid, tenant_id int, payer_id bigint, payee_id bigint,
               period int, price bigint, at_ms bigint, funded_until_ms bigint, ends_at_ms bigint, side billing.meter_side,
               threshold_ms int, payer_paid bigint, payer_promo bigint, payer_earned bigint, payer_v bigint,
               payee_paid bigint, payee_promo bigint, payee_earned bigint, payee_v bigint, spent bigint, share bigint)
language plpgsql security definer
set search_path = billing, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    with taken as (
        delete from meter_events e
        where e.event_id in (select x.event_id from meter_events x order by x.event_id limit p_limit for update skip locked)
        returning e.*
    )
    select t.event_id, t.kind, t.meter_id, m.tenant_id, m.payer_id, m.payee_id, t.period, t.price::bigint, t.at_ms,
           t.funded_until_ms,
           case when m.state = 'running' and not p.restricted
                    then m.due_ms + least((p.paid + p.promo) / m.price, 1000000) * m.pulse_ms
                when m.state = 'ended' then m.ended_ms else m.due_ms end,
           t.side, t.threshold_ms, p.paid::bigint, p.promo::bigint, p.earned, p.v,
           h.paid::bigint, h.promo::bigint, h.earned, h.v, m.spent_paid + m.spent_promo, m.share
    from (select * from taken order by event_id) t
    join meters m on m.meter_id = t.meter_id
    join balances p on p.user_id = m.payer_id
    join balances h on h.user_id = m.payee_id;
end
$$;
grant execute on function billing.take_events to talkmeter_app;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
