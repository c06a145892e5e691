-- Metering: open, start, charge, give back, finish. Each function works in the caller's transaction.

-- The tenth of a second in the minute at which pulses of whole minutes fall due; null for other pulses.
create function billing.slot_of(p_due bigint, p_pulse int) returns smallint
language sql immutable
return case when p_pulse % 60000 = 0 then (p_due / 100 % 600)::smallint end;

-- Commission and tax of a price, with the remainders carried on: n = remainder + price * bp; fee = n div 10000. The
-- tax is a part of the commission. A negative price gives back. Out: the host's share, fee, tax, new remainders.
create function billing.split(
    p_price bigint, p_fee_bp int, p_tax_bp int, p_fee_remainder int, p_tax_remainder int,
    out share bigint, out fee bigint, out tax bigint, out fee_remainder int, out tax_remainder int
) language plpgsql immutable set search_path = billing, pg_temp as $$
declare
    v_gross bigint;
    v_n bigint := p_fee_remainder + p_price * p_fee_bp;
begin
    fee_remainder := ((v_n % 10000) + 10000) % 10000;
    v_gross := (v_n - fee_remainder) / 10000;
    v_n := p_tax_remainder + v_gross * p_tax_bp;
    tax_remainder := ((v_n % 10000) + 10000) % 10000;
    tax := (v_n - tax_remainder) / 10000;
    fee := v_gross - tax;
    share := p_price - v_gross;
end
$$;

-- In: the parties and the locked terms. Effect: a meter in state open. The same call again does nothing; other
-- contents under a used id are refused.
create function billing.open_meter(
    p_now bigint, p_meter uuid, p_tenant int, p_payer bigint, p_payee bigint, p_price bigint, p_pulse_ms int,
    p_first_price bigint, p_first_ms int, p_fee_bp int, p_tax_bp int, p_grace_ms int, p_tariff jsonb, p_invited_ms bigint
) returns void
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_now bigint := moment(p_now);
    v_old meters;
begin
    select * into v_old from meters where meter_id = p_meter;
    if found then
        if (v_old.tenant_id, v_old.payer_id, v_old.payee_id) is distinct from (p_tenant, p_payer, p_payee)
           or (select tariff from meter_rates where meter_id = p_meter and from_period = 1) is distinct from p_tariff then
            raise exception 'meter % exists with other contents', p_meter using errcode = 'TM004';
        end if;
        return;
    end if;
    if p_payer = p_payee or (select count(*) from spending_wallets s join earning_wallets e using (user_id)
        where s.user_id in (p_payer, p_payee) and s.tenant_id = p_tenant) <> 2 then
        raise exception 'payer or payee has no wallet in tenant %', p_tenant using errcode = 'TM002';
    end if;
    insert into meters (meter_id, tenant_id, payer_id, payee_id, price, pulse_ms, fee_bp, tax_bp, grace_ms, opened_ms,
                        invited_ms)
    values (p_meter, p_tenant, p_payer, p_payee, p_price, p_pulse_ms, p_fee_bp, p_tax_bp, p_grace_ms, v_now,
            least(coalesce(p_invited_ms, v_now), v_now));
    insert into meter_rates (meter_id, from_period, at_ms, price, pulse_ms, first_price, first_ms, fee_bp, tax_bp, tariff)
    values (p_meter, 1, v_now, p_price, p_pulse_ms, p_first_price, p_first_ms, p_fee_bp, p_tax_bp, p_tariff);
end
$$;
grant execute on function billing.open_meter to talkmeter_app;

-- In: a meter that the caller has locked, a price, when its pulse begins and until when it funds.
-- Effect: the next period is charged. Out: false, and nothing changed, when the wallet does not reach.
create function billing.charge(p_meter uuid, p_price bigint, p_begins bigint, p_due bigint) returns boolean
language plpgsql set search_path = billing, pg_temp as $$
declare
    m meters;
    s record;
    v_promo bigint;
begin
    select * into strict m from meters where meter_id = p_meter;
    select least(promo, p_price) into v_promo from spending_wallets
    where user_id = m.payer_id and paid + promo >= p_price and not restricted for no key update;
    if not found then
        return false;
    end if;
    s := split(p_price, m.fee_bp, m.tax_bp, m.fee_remainder, m.tax_remainder);
    update spending_wallets set promo = promo - v_promo, paid = paid - (p_price - v_promo), v = v + 1
    where user_id = m.payer_id;
    insert into charges (meter_id, period, at_ms, price, promo, share, fee, tax)
    values (p_meter, m.period + 1, p_begins, p_price, v_promo, s.share, s.fee, s.tax);
    update meters
    set period = m.period + 1, fee_remainder = s.fee_remainder, tax_remainder = s.tax_remainder, due_ms = p_due,
        slot = case when state = 'running' then slot_of(p_due, pulse_ms) end,
        spent_paid = spent_paid + p_price - v_promo, spent_promo = spent_promo + v_promo, share = share + s.share,
        fee = fee + s.fee, tax = tax + s.tax, v = v + 1
    where meter_id = p_meter;
    return true;
end
$$;

-- In: locked meters that are to end. Effect: the wallets that this takes are locked, in the one order; a payer's wallet
-- that somebody else holds is not waited for, because others may be held already. Out: the meters whose wallets are held.
create function billing.lock_for_end(p_meters uuid[]) returns uuid[]
language plpgsql set search_path = billing, pg_temp as $$
declare
    v_meters uuid[];
begin
    with payers as materialized (
        select w.user_id from spending_wallets w
        where w.user_id in (select m.payer_id from meters m where m.meter_id = any (p_meters))
        order by w.user_id for no key update skip locked
    )
    select array_agg(m.meter_id order by m.meter_id) into v_meters
    from payers w join meters m on m.payer_id = w.user_id where m.meter_id = any (p_meters);
    perform from earning_wallets e
    where e.user_id in (select m.payee_id from meters m where m.meter_id = any (v_meters))
    order by e.user_id for no key update;
    return coalesce(v_meters, '{}');
end
$$;

-- In: a meter. Effect: the first pulse is charged and the meter runs; when the wallet does not reach, the meter
-- ends with insufficient_funds and no charge. Once: later calls change nothing. Out: the state now.
-- Free seconds come before the first pulse, as far as the payer has not used up his day's.
create function billing.start_meter(p_now bigint, p_meter uuid) returns void
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_now bigint := moment(p_now);
    v_free bigint;
    m meters;
    r meter_rates;
begin
    select * into m from meters where meter_id = p_meter for no key update;
    if not found then
        raise exception 'no meter %', p_meter using errcode = 'TM005';
    elsif m.state <> 'open' then
        return;
    end if;
    select * into strict r from meter_rates where meter_id = p_meter and from_period = 1;
    v_now := greatest(v_now, m.opened_ms);
    v_free := free_time(m.payer_id, v_now, (r.tariff ->> 'free_ms')::bigint, (r.tariff ->> 'free_ms_per_day')::bigint);
    update meters set state = 'running', started_ms = v_now, running_since_ms = v_now,
                      due_ms = v_now + v_free + r.first_ms
    where meter_id = p_meter;
    if charge(p_meter, r.first_price, v_now + v_free, v_now + v_free + r.first_ms) then
        if v_free > 0 then
            insert into payer_days (payer_id, day, free_ms) values (m.payer_id, v_now / 86400000, v_free)
            on conflict (payer_id, day) do update set free_ms = payer_days.free_ms + excluded.free_ms;
        end if;
        insert into meter_proofs values (p_meter, v_now, v_now, v_now, v_now)
        on conflict (meter_id) do update set payer_heard_ms = v_now, payer_seen_ms = v_now,
                                             payee_heard_ms = v_now, payee_seen_ms = v_now;
        perform warn(v_now, p_meter, 0);
    else
        update meters set state = 'ended', slot = null, started_ms = null, running_since_ms = null, due_ms = null,
                          ended_ms = v_now, reason = 'insufficient_funds'
        where meter_id = p_meter;
    end if;
end
$$;
grant execute on function billing.start_meter to talkmeter_app;

-- What is left today of a payer's free time for one call: all of it or nothing.
create function billing.free_time(p_payer bigint, p_now bigint, p_free bigint, p_per_day bigint) returns bigint
language sql stable
return case when p_free > 0 and p_free <= p_per_day - coalesce((
    select free_ms from billing.payer_days where payer_id = p_payer and day = p_now / 86400000), 0) then p_free else 0 end;

-- In: a meter, how long its money lasts, whether the next pulse cannot be paid. Out: the band of its terms' thresholds
-- around that time (see billing.meters).
create type billing.low_band as (next_ms int, told_ms int);
create function billing.band_of(p_meter uuid, p_left bigint, p_final boolean) returns billing.low_band
language sql stable
return (
    select row(case when p_final then -1 else coalesce(max(t.ms::int) filter (where t.ms::int < p_left), -1) end,
               case when p_final then 0 else coalesce(min(t.ms::int) filter (where t.ms::int >= p_left), 2147483647) end
           )::billing.low_band
    from (select tariff from billing.meter_rates where meter_id = p_meter order by from_period desc limit 1) r
    left join lateral jsonb_array_elements_text(r.tariff -> 'low_balance_ms') as t (ms) on true
);

-- In: a locked, running meter, and the coins that came into its payer's wallet (negative: left it; null: it is the time
-- that moved, after a pause). Effect: low_balance, when the funded time fell to one of the terms' thresholds, or the next
-- pulse cannot be paid any more: each is told once, until the end moves above it. An end that was told before is told
-- again when it is no longer right; extended, when coins that came in moved it. The tick does the same for its rows.
create function billing.warn(p_now bigint, p_meter uuid, p_coins bigint) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    m meters;
    v_coins bigint;
    v_pulses bigint;
    v_moved boolean;
    v_band low_band;
begin
    select * into strict m from meters where meter_id = p_meter;
    select case when restricted then 0 else paid + promo end into strict v_coins from spending_wallets
    where user_id = m.payer_id;
    v_pulses := least(v_coins / m.price, 1000000);
    v_moved := p_coins is null or v_pulses <> least((v_coins - p_coins) / m.price, 1000000);
    v_band := band_of(p_meter, m.due_ms + v_pulses * m.pulse_ms - p_now, v_pulses = 0);
    if p_coins > 0 and v_moved then
        insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind)
        values (p_meter, p_now, m.due_ms, m.price, m.period, 'extended');
    elsif v_band.told_ms < m.low_told_ms or (v_moved and v_band.told_ms < 2147483647) then
        insert into meter_events (meter_id, at_ms, funded_until_ms, price, period, kind, threshold_ms)
        values (p_meter, p_now, m.due_ms, m.price, m.period, 'low_balance', v_band.told_ms);
    end if;
    update meters set low_next_ms = v_band.next_ms, low_told_ms = v_band.told_ms
    where meter_id = p_meter and (low_next_ms, low_told_ms) <> (v_band.next_ms, v_band.told_ms);
end
$$;

-- In: users whose wallets this transaction has changed, each once, and by how many coins. Effect: their running meters
-- warn of the end that has moved, now, not when the tick finds it. A payer in no call costs one look into a small
-- index. Wallets are locked already, so a meter that somebody holds is not waited for: a tick that holds it waits for the
-- wallet and sees it as it is now.
create function billing.warn_payers(p_now bigint, p_users bigint[], p_coins bigint[]) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    x record;
begin
    for x in
        select m.meter_id, u.coins
        from unnest(p_users, p_coins) as u (user_id, coins)
        join meters m on m.payer_id = u.user_id and m.state = 'running'
        join spending_wallets w on w.user_id = u.user_id
        cross join lateral (select least(case when w.restricted then 0 else w.paid + w.promo end / m.price, 1000000) as now,
                                   least((w.paid + w.promo - u.coins) / m.price, 1000000) as before) p
        where p.now <> p.before
           or least(m.due_ms + p.now * m.pulse_ms - p_now, 2147483647) not between m.low_next_ms + 1 and m.low_told_ms
        for no key update of m skip locked
    loop
        perform warn(p_now, x.meter_id, x.coins);
    end loop;
end
$$;

-- In: a charge of a meter that the caller has locked, coins to give back, an id for this refund.
-- Effect: a refund row that names the charge. Paid coins go back first. The host's share comes out of the meter while
-- it runs, later out of his wallet as far as that reaches; the rest is the platform's loss.
create function billing.give_back(
    p_now bigint, p_refund uuid, p_meter uuid, p_period int, p_coins bigint, p_reason text
) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    m meters;
    c charges;
    r meter_rates;
    s record;
    v_before record;
    v_promo bigint;
    v_taken bigint;
begin
    select * into strict m from meters where meter_id = p_meter;
    select * into c from charges where meter_id = p_meter and period = p_period;
    select coalesce(sum(coins), 0)::bigint as coins, coalesce(sum(promo), 0)::bigint as promo into strict v_before
    from charge_refunds where meter_id = p_meter and period = p_period;
    if c is null or p_coins < 1 or p_coins > c.price - v_before.coins then
        raise exception 'period % of meter % has no % coins to give back', p_period, p_meter, p_coins using errcode = 'TM006';
    end if;
    select * into strict r from meter_rates where meter_id = p_meter and from_period <= p_period
    order by from_period desc limit 1;
    v_promo := p_coins - least(p_coins, (c.price - c.promo) - (v_before.coins - v_before.promo));
    s := split(-p_coins, r.fee_bp, r.tax_bp, m.fee_remainder, m.tax_remainder);
    update spending_wallets set paid = paid + p_coins - v_promo, promo = promo + v_promo, v = v + 1
    where user_id = m.payer_id;
    v_taken := -s.share;
    if m.state = 'ended' then
        select least(earned, -s.share) into strict v_taken from earning_wallets where user_id = m.payee_id for no key update;
        update earning_wallets set earned = earned - v_taken, v = v + 1 where user_id = m.payee_id;
    end if;
    insert into charge_refunds (refund_id, meter_id, period, at_ms, coins, promo, share, fee, tax, loss, reason)
    values (p_refund, p_meter, p_period, p_now, p_coins, v_promo, v_taken, -s.fee, -s.tax, -s.share - v_taken, p_reason);
    update meters
    set fee_remainder = s.fee_remainder, tax_remainder = s.tax_remainder, v = v + 1,
        spent_paid = spent_paid - (p_coins - v_promo), spent_promo = spent_promo - v_promo,
        share = share - v_taken, fee = fee + s.fee, tax = tax + s.tax, loss = loss - s.share - v_taken
    where meter_id = p_meter;
end
$$;

-- How long a period funds.
create function billing.period_ms(p_meter uuid, p_period int) returns int
language sql stable
return (select case when from_period = p_period then first_ms else pulse_ms end from billing.meter_rates
        where meter_id = p_meter and from_period <= p_period order by from_period desc limit 1);

-- What new terms cut off a period; that time was given back when they began.
create function billing.cut_of(p_meter uuid, p_period int) returns int
language sql stable
return coalesce((select cut_ms from billing.meter_rates where meter_id = p_meter and from_period = p_period + 1), 0);

-- What is left of a charge after its refunds.
create function billing.kept_of(p_meter uuid, p_period int) returns bigint
language sql stable
return (select c.price - coalesce((select sum(r.coins) from billing.charge_refunds r
                                   where r.meter_id = c.meter_id and r.period = c.period), 0)::bigint
        from billing.charges c where c.meter_id = p_meter and c.period = p_period);

-- In: a locked meter that runs or is suspended, the moment at which it ended, why, and the side that was lost.
-- Effect: pulses that had not begun before that moment are given back whole; under per-second rounding the unused part of the
-- last one too (whole seconds used are paid, the minimum is kept); then the tariff's waivers; then the host is paid.
create function billing.finish(p_now bigint, p_meter uuid, p_at bigint, p_reason text, p_lost billing.meter_side)
returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    m meters;
    v_unused bigint;
    v_cut bigint;
    v_length bigint;
    v_kept bigint;
    v_period int;
begin
    select * into strict m from meters where meter_id = p_meter;
    perform from spending_wallets where user_id = m.payer_id for no key update;
    update meters set lost_side = p_lost, slot = null, state = 'suspended', suspended_ms = p_at where meter_id = p_meter;
    update meter_pauses set until_ms = greatest(p_at, from_ms) where meter_id = p_meter and until_ms is null;
    v_unused := m.due_ms - p_at;
    v_period := m.period;
    loop
        exit when v_period < 1;
        v_length := period_ms(p_meter, v_period);
        v_cut := cut_of(p_meter, v_period);
        exit when v_unused < v_length - v_cut;
        v_kept := kept_of(p_meter, v_period);
        if v_kept > 0 then
            perform give_back(p_now, derived_id(p_meter, 'unused:' || v_period), p_meter, v_period, v_kept, 'not_begun');
        end if;
        v_unused := v_unused - (v_length - v_cut);
        v_period := v_period - 1;
    end loop;
    if v_period >= 1 then
        perform give_back_seconds(p_now, p_meter, v_period, v_unused + v_cut, v_length);
    end if;
    perform waive(p_now, p_meter, p_at, p_reason, p_lost, v_period);
    update earning_wallets e set earned = e.earned + x.share, v = e.v + x.v + 1
    from meters x where x.meter_id = p_meter and e.user_id = x.payee_id;
    update meters set state = 'ended', ended_ms = p_at, reason = p_reason, suspended_ms = null, paused_from_ms = null
    where meter_id = p_meter;
    delete from meter_proofs where meter_id = p_meter;
end
$$;

-- Per-second rounding: the last pulse costs its used seconds, each begun second whole, rounded up to a coin.
create function billing.give_back_seconds(p_now bigint, p_meter uuid, p_period int, p_unused bigint, p_length bigint)
returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    v_tariff jsonb := (select tariff from meter_rates where meter_id = p_meter and from_period <= p_period
                       order by from_period desc limit 1);
    v_spent bigint := (select spent_paid + spent_promo from meters where meter_id = p_meter);
    v_price bigint := (select price from charges where meter_id = p_meter and period = p_period);
    v_kept bigint := kept_of(p_meter, p_period);
    v_used_ms bigint := least((p_length - p_unused + 999) / 1000 * 1000, p_length);
    v_back bigint;
begin
    if v_tariff ->> 'rounding' <> 'second' or p_unused <= 0 then
        return;
    end if;
    v_back := v_kept - (v_price * v_used_ms + p_length - 1) / p_length;
    v_back := least(v_back, v_spent - (v_tariff ->> 'minimum_coins')::bigint);
    if v_back > 0 then
        perform give_back(p_now, derived_id(p_meter, 'seconds:' || p_period), p_meter, p_period, v_back, 'unused_seconds');
    end if;
end
$$;

-- The tariff's waivers: a call shorter than short_call_ms (limited per payer and day) and one whose host was silent
-- cost nothing; when the host dropped out, the pulse that ran then is given back.
create function billing.waive(
    p_now bigint, p_meter uuid, p_at bigint, p_reason text, p_lost billing.meter_side, p_period int
) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    v_day int := p_now / 86400000;
    v_why text;
    v_first int := 1;
    m meters;
    t jsonb;
    c record;
begin
    select * into strict m from meters where meter_id = p_meter;
    select tariff into strict t from meter_rates where meter_id = p_meter order by from_period desc limit 1;
    if p_reason = 'silent_host' and (t ->> 'waive_silent_host')::boolean then
        v_why := 'silent_host';
    elsif p_at - m.started_ms < (t ->> 'short_call_ms')::bigint and m.spent_paid + m.spent_promo > 0
          and coalesce((select short_waivers from payer_days where payer_id = m.payer_id and day = v_day), 0)
              < (t ->> 'short_waivers_per_day')::int then
        v_why := 'short_call';
        insert into payer_days (payer_id, day, short_waivers) values (m.payer_id, v_day, 1)
        on conflict (payer_id, day) do update set short_waivers = payer_days.short_waivers + 1;
    elsif p_lost = 'payee' and (t ->> 'waive_host_dropped')::boolean then
        v_why := 'host_dropped';
        v_first := p_period;
    else
        return;
    end if;
    for c in select period, kept_of(p_meter, period) as kept from charges
             where meter_id = p_meter and period >= v_first order by period loop
        if c.kept > 0 then
            perform give_back(p_now, derived_id(p_meter, 'waived:' || c.period), p_meter, c.period, c.kept, v_why);
        end if;
    end loop;
end
$$;

-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
