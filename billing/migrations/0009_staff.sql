-- What staff and payment providers do to the books: adjustments, corrections, purchases, chargebacks, payouts.

-- In: a user, a bucket (paid, promo, earned), signed coins, who and why. Effect: an adjustment against the tenant's
-- account, and its audit trail with the balances before and after. Out: the outcome of the transfer.
create function billing.adjust(
    p_now bigint, p_id uuid, p_user bigint, p_bucket text, p_coins bigint, p_actor text, p_reason text,
    out outcome text, out code text
) language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_tenant int := (select tenant_id from spending_wallets where user_id = p_user);
    v_account account := case when p_bucket = 'earned' then 'earnings' else 'wallet' end;
    v_bucket bucket := case when p_bucket = 'earned' then 'auto' else p_bucket end;
    v_before jsonb;
    v record;
begin
    perform from spending_wallets where user_id = p_user for no key update;
    v_before := (select to_jsonb(b) from balances b where user_id = p_user);
    if p_coins > 0 then
        v := post(p_now, p_id, 'adjustment', 'adjustments', v_tenant, v_account, p_user, p_coins, v_bucket, p_reason);
    else
        v := post(p_now, p_id, 'adjustment', v_account, p_user, 'adjustments', v_tenant, -p_coins, v_bucket, p_reason);
    end if;
    outcome := v.outcome;
    code := v.code;
    if outcome = 'done' then
        insert into audit_trail (at_ms, actor, action, subject_user, reference, coins, reason, before, after)
        values (moment(p_now), p_actor, 'adjust_' || p_bucket, p_user, p_id, p_coins, p_reason, v_before,
                (select to_jsonb(b) from balances b where user_id = p_user));
    end if;
end
$$;

-- In: a transfer id, sources and targets of a correction: accounts with coins, of equal sums. Effect: rows that name the
-- transfer, one for each pairing of a source with a target bucket. Paid coins are listed, and so returned, first.
create function billing.pair_up(
    p_now bigint, p_original uuid, p_user bigint, p_sources jsonb, p_paid bigint, p_promo bigint, p_reason text
) returns void
language plpgsql set search_path = billing, pg_temp as $$
declare
    x record;
    v record;
    v_coins bigint;
    v_paid bigint := p_paid;
    v_promo bigint := p_promo;
begin
    for x in select (s ->> 0)::account as account, (s ->> 1)::bigint as owner, (s ->> 2)::bigint as coins
             from jsonb_array_elements(p_sources) s where (s ->> 2)::bigint > 0 loop
        v_coins := least(x.coins, v_paid);
        if v_coins > 0 then
            v := post(p_now, derived_id(p_original, 'correct:paid:' || x.account), 'correction', x.account, x.owner, 'wallet',
                      p_user, v_coins, 'paid', p_reason, 0, p_original);
            v_paid := v_paid - v_coins;
        end if;
        v_coins := x.coins - v_coins;
        if v_coins > 0 then
            v := post(p_now, derived_id(p_original, 'correct:promo:' || x.account), 'correction', x.account, x.owner,
                      'wallet', p_user, v_coins, 'promo', p_reason, 0, p_original);
            v_promo := v_promo - v_coins;
        end if;
    end loop;
    if (v_paid, v_promo) <> (0, 0) then
        raise exception 'correction of % does not add up: % and % left', p_original, v_paid, v_promo;
    end if;
end
$$;

-- In: a gift or a paid message, who and why. Effect: it is undone by rows that name it: coins go back to the buckets they
-- came from; the host's share is taken as far as his wallet reaches, the rest is the platform's loss. Once. Out: done |
-- replayed | not_found | wrong_kind.
create function billing.correct_payment(p_now bigint, p_original uuid, p_actor text, p_reason text) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    t transfers;
    v_taken bigint;
begin
    select * into t from transfers where transfer_id = p_original and refused is null;
    if not found then
        return 'not_found';
    elsif t.kind not in ('gift', 'chat') then
        return 'wrong_kind';
    end if;
    perform from spending_wallets where user_id = t.debit_owner for no key update;
    if exists (select from transfers where corrects = p_original) then
        return 'replayed';
    end if;
    select least(earned, t.coins - t.fee) into strict v_taken from earning_wallets
    where user_id = t.credit_owner for no key update;
    perform pair_up(p_now, p_original, t.debit_owner,
                    jsonb_build_array(jsonb_build_array('earnings', t.credit_owner, v_taken),
                                      jsonb_build_array('commission', t.tenant_id, t.fee),
                                      jsonb_build_array('loss', t.tenant_id, t.coins - t.fee - v_taken)),
                    t.coins - t.promo, t.promo, p_reason);
    insert into audit_trail (at_ms, actor, action, subject_user, reference, coins, reason)
    values (moment(p_now), p_actor, 'correct_payment', t.debit_owner, p_original, t.coins, p_reason);
    return 'done';
end
$$;

-- In: whether a user may spend. Effect: as said, with an audit trail.
create function billing.set_restricted(p_now bigint, p_user bigint, p_restricted boolean, p_actor text, p_reason text)
returns void
language plpgsql security definer set search_path = billing, pg_temp as $$
begin
    update spending_wallets set restricted = p_restricted, v = v + 1 where user_id = p_user;
    if not found then
        raise exception 'user % has no wallet', p_user using errcode = 'TM002';
    end if;
    perform warn_payers(moment(p_now), array[p_user], array[0]);
    insert into audit_trail (at_ms, actor, action, subject_user, reference, reason)
    values (moment(p_now), p_actor, case when p_restricted then 'restrict' else 'lift' end, p_user, gen_random_uuid(), p_reason);
end
$$;

-- Purchases by the provider's payment id (not its event's id): credited once, charged back once.
create table billing.purchases (
    tenant_id int not null,
    payment_id text not null check (length(payment_id) between 1 and 200),
    transfer_id uuid not null unique,
    user_id bigint not null,
    coins bigint not null check (coins > 0),
    amount_minor bigint not null check (amount_minor >= 0), -- in the smallest unit of the currency
    currency char(3) not null,
    credited_ms bigint not null,
    charged_back_ms bigint,
    receivable bigint not null default 0 check (receivable between 0 and coins), -- coins that were spent already
    primary key (tenant_id, payment_id)
);

-- In: a captured payment. Effect: its coins are in the wallet. Out: done | replayed | conflict | unknown_account.
create function billing.credit_purchase(
    p_now bigint, p_tenant int, p_payment text, p_user bigint, p_coins bigint, p_amount bigint, p_currency text
) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_id uuid := md5(p_tenant || ':' || p_payment)::uuid;
    v_old purchases;
    v record;
begin
    insert into purchases (tenant_id, payment_id, transfer_id, user_id, coins, amount_minor, currency, credited_ms)
    values (p_tenant, p_payment, v_id, p_user, p_coins, p_amount, p_currency, moment(p_now))
    on conflict (tenant_id, payment_id) do nothing;
    if not found then
        select * into strict v_old from purchases where tenant_id = p_tenant and payment_id = p_payment;
        return case when (v_old.user_id, v_old.coins, v_old.amount_minor, v_old.currency)
                         = (p_user, p_coins, p_amount, p_currency) then 'replayed' else 'conflict' end;
    end if;
    v := post(p_now, v_id, 'purchase', 'sales', p_tenant, 'wallet', p_user, p_coins, 'paid', p_payment);
    if v.outcome <> 'done' then
        raise exception 'payment %: %', p_payment, coalesce(v.code, v.outcome) using errcode = 'TM002';
    end if;
    return 'done';
end
$$;

-- In: a payment that the bank took back. Effect: what is there of its coins leaves the wallet, paid ones first; the rest is
-- receivable and the user may not spend until staff lifts that. Never a negative wallet. Out: done | replayed | not_found.
create function billing.charge_back(p_now bigint, p_tenant int, p_payment text, p_reason text) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    p purchases;
    w spending_wallets;
    v_promo bigint;
begin
    select * into p from purchases where tenant_id = p_tenant and payment_id = p_payment for no key update;
    if not found then
        return 'not_found';
    elsif p.charged_back_ms is not null then
        return 'replayed';
    end if;
    select * into strict w from spending_wallets where user_id = p.user_id for no key update;
    v_promo := least(w.promo, p.coins - least(w.paid, p.coins));
    update purchases set charged_back_ms = moment(p_now), receivable = p.coins - least(w.paid, p.coins) - v_promo
    where tenant_id = p_tenant and payment_id = p_payment returning * into p;
    if w.paid > 0 then
        perform post(p_now, derived_id(p.transfer_id, 'back:paid'), 'chargeback', 'wallet', p.user_id, 'sales', p_tenant,
                     least(w.paid, p.coins), 'paid', p_reason);
    end if;
    if v_promo > 0 then
        perform post(p_now, derived_id(p.transfer_id, 'back:promo'), 'chargeback', 'wallet', p.user_id, 'sales', p_tenant,
                     v_promo, 'promo', p_reason);
    end if;
    if p.receivable > 0 then
        perform post(p_now, derived_id(p.transfer_id, 'back:owed'), 'chargeback', 'receivable', p_tenant, 'sales', p_tenant,
                     p.receivable, 'auto', p_reason);
        perform set_restricted(p_now, p.user_id, true, 'chargeback', p_reason);
    end if;
    return 'done';
end
$$;

-- Payouts: earnings go to clearing and tax-payable accounts at the request, on from there when the bank has paid, and back
-- when it failed. Both accounts return to zero.
create type billing.payout_state as enum ('requested', 'settled', 'reversed');
create table billing.payouts (
    payout_id uuid primary key,
    tenant_id int not null,
    user_id bigint not null,
    coins bigint not null check (coins > 0),
    tax bigint not null check (tax between 0 and coins - 1),
    state billing.payout_state not null default 'requested',
    requested_ms bigint not null,
    resolved_ms bigint,
    check ((state = 'requested') = (resolved_ms is null))
);
create index payouts_user on billing.payouts (user_id, requested_ms);

-- In: an id, a user, coins of his settled earnings, the tax in them. Out: done | replayed | conflict | the code of the refusal.
create function billing.request_payout(p_now bigint, p_id uuid, p_user bigint, p_coins bigint, p_tax bigint) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    v_old payouts;
    w earning_wallets;
begin
    select * into w from earning_wallets where user_id = p_user for no key update;
    if not found then
        return 'unknown_account';
    end if;
    select * into v_old from payouts where payout_id = p_id;
    if found then
        return case when (v_old.user_id, v_old.coins, v_old.tax) = (p_user, p_coins, p_tax) then 'replayed' else 'conflict' end;
    elsif w.earned < p_coins then
        return 'insufficient_funds';
    end if;
    insert into payouts (payout_id, tenant_id, user_id, coins, tax, requested_ms)
    values (p_id, w.tenant_id, p_user, p_coins, p_tax, moment(p_now));
    perform post(p_now, p_id, 'payout', 'earnings', p_user, 'payouts', w.tenant_id, p_coins - p_tax, 'auto', 'payout');
    if p_tax > 0 then
        perform post(p_now, derived_id(p_id, 'tax'), 'payout_tax', 'earnings', p_user, 'payout_tax', w.tenant_id, p_tax, 'auto',
                     'tax');
    end if;
    return 'done';
end
$$;

-- In: a payout and whether the bank has paid. Out: the state now, whether this call made it so or an earlier one; null for
-- an unknown payout.
create function billing.resolve_payout(p_now bigint, p_id uuid, p_paid boolean) returns text
language plpgsql security definer set search_path = billing, pg_temp as $$
declare
    p payouts;
begin
    select * into p from payouts where payout_id = p_id for no key update;
    if not found or p.state <> 'requested' then
        return p.state;
    end if;
    update payouts set state = case when p_paid then 'settled' else 'reversed' end::payout_state, resolved_ms = moment(p_now)
    where payout_id = p_id returning * into p;
    if p_paid then
        perform post(p_now, derived_id(p_id, 'settled'), 'payout_settle', 'payouts', p.tenant_id, 'bank', p.tenant_id,
                     p.coins - p.tax, 'auto', '');
        if p.tax > 0 then
            perform post(p_now, derived_id(p_id, 'tax:settled'), 'payout_settle', 'payout_tax', p.tenant_id, 'bank',
                         p.tenant_id, p.tax, 'auto', 'tax');
        end if;
    else
        perform post(p_now, derived_id(p_id, 'reversed'), 'payout_reversal', 'payouts', p.tenant_id, 'earnings', p.user_id,
                     p.coins - p.tax, 'auto', '');
        if p.tax > 0 then
            perform post(p_now, derived_id(p_id, 'tax:reversed'), 'payout_reversal', 'payout_tax', p.tenant_id, 'earnings',
                         p.user_id, p.tax, 'auto', 'tax');
        end if;
    end if;
    return p.state;
end
$$;

grant execute on function billing.adjust, billing.correct_payment, billing.set_restricted, billing.credit_purchase,
    billing.charge_back, billing.request_payout, billing.resolve_payout to talkmeter_app;
grant select on billing.purchases, billing.payouts to talkmeter_app;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
