-- Holds: coins set aside in escrow for a booking or a place in a queue; then posted, voided or expired, once.

create type billing.hold_state as enum ('pending', 'posted', 'voided', 'expired');
create table billing.holds (
    hold_id uuid primary key,
    tenant_id int not null,
    user_id bigint not null,
    coins bigint not null check (coins > 0),
    promo bigint not null check (promo between 0 and coins),
    state billing.hold_state not null default 'pending',
    made_ms bigint not null,
    expires_ms bigint not null,
    resolved_ms bigint,
    posted_coins bigint not null default 0,
    check (posted_coins between 0 and coins),
    check ((state = 'pending') = (resolved_ms is null)),
    check (posted_coins = 0 or state = 'posted')
);
create index holds_pending on billing.holds (expires_ms) where state = 'pending';
create index holds_user on billing.holds (user_id);

-- In: an id, a user, coins, until when. Effect: the coins are in escrow, promotional ones first. Out: the outcome of
-- the transfer.
create function billing.make_hold(
    p_now bigint, p_hold uuid, p_user bigint, p_coins bigint, p_expires bigint, p_reason text,
    out outcome text, out code text
) language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_tenant int := (select tenant_id from spending_wallets where user_id = p_user);
    v record;
begin
    v := post(p_now, p_hold, 'hold', 'wallet', p_user, 'escrow', v_tenant, p_coins, 'auto', p_reason);
    outcome := v.outcome;
    code := v.code;
    if outcome = 'done' then
        insert into holds (hold_id, tenant_id, user_id, coins, promo, made_ms, expires_ms)
        values (p_hold, v_tenant, p_user, p_coins, v.promo, moment(p_now), p_expires);
    end if;
end
$$;

-- In: a locked, pending hold, how many of its coins are spent, the state to come. Effect: the rest goes back to the
-- buckets that it came from; promotional coins are spent first.
create function billing.return_hold(p_now bigint, p_hold uuid, p_spent bigint, p_state billing.hold_state) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    h holds;
    v_promo bigint;
    v_paid bigint;
begin
    select * into strict h from holds where hold_id = p_hold;
    v_promo := h.promo - least(h.promo, p_spent);
    v_paid := h.coins - p_spent - v_promo;
    if v_paid > 0 then
        perform post(p_now, derived_id(p_hold, 'void:paid'), 'hold_void', 'escrow', h.tenant_id, 'wallet', h.user_id,
                     v_paid, 'paid', p_state::text);
    end if;
    if v_promo > 0 then
        perform post(p_now, derived_id(p_hold, 'void:promo'), 'hold_void', 'escrow', h.tenant_id, 'wallet', h.user_id,
                     v_promo, 'promo', p_state::text);
    end if;
    update holds set state = p_state, resolved_ms = moment(p_now), posted_coins = p_spent where hold_id = p_hold;
end
$$;

-- In: a hold, who gets how many of its coins (0: none) and at what commission. Effect: posted to his earnings, the rest
-- returned; or all returned. Out: posted | voided | expired: the state now, whether this call made it so or an earlier
-- one; null when there is no such hold.
create function billing.resolve_hold(p_now bigint, p_hold uuid, p_payee bigint, p_coins bigint, p_fee_bp int) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    h holds;
    v record;
begin
    select * into h from holds where hold_id = p_hold for no key update;
    if not found then
        return null;
    elsif h.state <> 'pending' then
        return h.state;
    elsif h.expires_ms <= moment(p_now) then
        perform return_hold(p_now, p_hold, 0, 'expired');
        return 'expired';
    elsif p_coins = 0 then
        perform return_hold(p_now, p_hold, 0, 'voided');
        return 'voided';
    elsif p_coins > h.coins then
        raise exception 'hold % has % coins', p_hold, h.coins using errcode = 'TM008';
    end if;
    v := post(p_now, derived_id(p_hold, 'post'), 'hold_post', 'escrow', h.tenant_id, 'earnings', p_payee, p_coins, 'auto',
              '', p_fee_bp);
    if v.outcome <> 'done' then
        raise exception 'hold % cannot be posted to %: %', p_hold, p_payee, v.code using errcode = 'TM002';
    end if;
    perform return_hold(p_now, p_hold, p_coins, 'posted');
    return 'posted';
end
$$;

-- In: how many at most. Effect: holds past their time are returned. Out: how many.
create function billing.expire_holds(p_now bigint, p_limit int) returns int
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_hold uuid;
    n int := 0;
begin
    for v_hold in select hold_id from holds where state = 'pending' and expires_ms <= moment(p_now)
                  order by expires_ms limit p_limit for no key update skip locked loop
        perform return_hold(p_now, v_hold, 0, 'expired');
        n := n + 1;
    end loop;
    return n;
end
$$;

grant execute on function billing.make_hold, billing.resolve_hold, billing.expire_holds to talkmeter_app;
grant select on billing.holds to talkmeter_app;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
