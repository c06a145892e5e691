-- Transfers: decided and booked in sets.

-- In: parallel arrays, one element a transfer. debit/credit owners are user ids for wallet and earnings, tenant ids
-- for platform accounts. bucket: which coins of a wallet ('auto' on a debit: promotional coins first).
-- Out: one row for each id that has an outcome:
--   done | replayed (same id, same contents: nothing moved now) | conflict (same id, other contents) |
--   refused (with the code; recorded, for ever)
-- and the promotional part and the fee that were booked. An id without a row was not decided: its account is unknown,
-- or it is a second debit of one wallet in this call, or its twin is in flight: look at the accounts, ask again.
--
-- One statement does it: lock, decide, journal, move. Rows flow through the locks, so that no two intermediate results
-- are ever joined: nested loops over indexes are then right for one transfer and for a thousand, whatever the
-- statistics say. Locks spending wallets by user id, then earning wallets by user id. Whoever's money moved while he pays
-- for a call is told its new end (billing.warn_payers).
create function billing.post_transfers(
    p_now bigint, p_ids uuid[], p_kinds billing.transfer_kind[],
    p_debits billing.account[], p_debit_owners bigint[], p_credits billing.account[], p_credit_owners bigint[],
    p_coins bigint[], p_buckets billing.bucket[], p_fee_bps int[], p_reasons text[], p_corrects uuid[]
) returns table (transfer_id uuid, outcome text, code text, promo bigint, fee bigint)
language plpgsql security definer
set search_path = billing, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now bigint := moment(p_now);
    v_ids uuid[];
    v_outcomes text[];
    v_codes text[];
    v_promos bigint[];
    v_fees bigint[];
    v_users bigint[];
    v_moved bigint[];
begin
    with asked as materialized (
        select t.*, o.transfer_id as known, o.refused as known_refused, o.promo as known_promo, o.fee as known_fee,
               (o.kind, o.debit, o.debit_owner, o.credit, o.credit_owner, o.coins, o.bucket, o.fee_bp, o.reason)
               is not distinct from
               (t.kind, t.debit, t.debit_owner, t.credit, t.credit_owner, t.coins, t.bucket, t.fee_bp, t.reason)
               and o.corrects is not distinct from t.corrects as same,
               row_number() over (partition by o.transfer_id is null, t.debit, t.debit_owner order by t.n) as turn,
               row_number() over (partition by t.id order by t.n) as copy
        from unnest(p_ids, p_kinds, p_debits, p_debit_owners, p_credits, p_credit_owners, p_coins, p_buckets, p_fee_bps,
                    p_reasons, p_corrects)
             with ordinality as t (id, kind, debit, debit_owner, credit, credit_owner, coins, bucket, fee_bp, reason,
                                   corrects, n)
        left join transfers o on o.transfer_id = t.id
    ), spending as materialized (
        select a.*, w.tenant_id, w.restricted and a.kind in ('gift', 'chat', 'hold') as barred,
               case a.bucket when 'auto' then w.paid + w.promo when 'paid' then w.paid else w.promo end as available,
               case a.bucket when 'auto' then least(w.promo, a.coins) when 'paid' then 0 else a.coins end as promo_part
        from (select * from asked f where f.known is null and f.debit = 'wallet' and f.turn = 1 and f.copy = 1
              order by f.debit_owner) a
        join spending_wallets w on w.user_id = a.debit_owner
        for no key update of w
    ), earning as materialized (
        select a.*, w.tenant_id, false as barred, w.earned as available,
               case when a.credit = 'wallet' and a.bucket = 'promo' then a.coins else 0 end as promo_part
        from (select * from asked f where f.known is null and f.debit = 'earnings' and f.turn = 1 and f.copy = 1
              and (select count(*) from spending) >= 0 order by f.debit_owner) a
        join earning_wallets w on w.user_id = a.debit_owner
        for no key update of w
    ), judged as (
        select * from spending
        union all
        select * from earning
        union all
        select a.*, a.debit_owner::int, false, a.coins,
               case when a.credit = 'wallet' and a.bucket = 'promo' then a.coins else 0 end
        from asked a where a.known is null and a.debit not in ('wallet', 'earnings') and a.copy = 1
    ), decided as (
        select j.*, case when j.tenant_id <> coalesce(s.tenant_id, e.tenant_id, j.credit_owner::int) then 'other_tenant'
                         when j.barred then 'restricted'
                         when j.available < j.coins then 'insufficient_funds' end as refused
        from judged j
        left join spending_wallets s on j.credit = 'wallet' and s.user_id = j.credit_owner
        left join earning_wallets e on j.credit = 'earnings' and e.user_id = j.credit_owner
        where (j.credit <> 'wallet' or s.user_id is not null) and (j.credit <> 'earnings' or e.user_id is not null)
    ), booked as (
        insert into transfers as t (transfer_id, at_ms, debit_owner, credit_owner, coins, promo, fee, tenant_id, fee_bp,
                                    kind, debit, credit, bucket, refused, reason, corrects)
        select d.id, v_now, d.debit_owner, d.credit_owner, d.coins,
               case when d.refused is null then d.promo_part else 0 end,
               case when d.refused is null then d.coins / 10000 * d.fee_bp + d.coins % 10000 * d.fee_bp / 10000 else 0 end,
               d.tenant_id, d.fee_bp, d.kind, d.debit, d.credit, d.bucket, d.refused, d.reason, d.corrects
        from decided d
        on conflict (transfer_id) do nothing
        returning t.transfer_id, t.debit, t.debit_owner, t.credit, t.credit_owner, t.coins, t.promo, t.fee, t.refused
    ), moved_spending as (
        update spending_wallets w
        set paid = w.paid + m.paid, promo = w.promo + m.promo, v = w.v + 1
        from (select u.user_id, sum(u.paid) as paid, sum(u.promo) as promo
              from (select b.debit_owner as user_id, b.promo - b.coins as paid, -b.promo as promo
                    from booked b where b.debit = 'wallet' and b.refused is null
                    union all
                    select b.credit_owner, b.coins - b.promo, b.promo
                    from booked b where b.credit = 'wallet' and b.refused is null) u
              group by u.user_id order by u.user_id) m
        where w.user_id = m.user_id
        returning w.user_id, (m.paid + m.promo)::bigint as coins
    ), moved_earning as (
        update earning_wallets w
        set earned = w.earned + m.earned, v = w.v + 1
        from (select u.user_id, sum(u.earned) as earned
              from (select b.debit_owner as user_id, -b.coins as earned
                    from booked b where b.debit = 'earnings' and b.refused is null
                    union all
                    select b.credit_owner, b.coins - b.fee
                    from booked b where b.credit = 'earnings' and b.refused is null) u
              where (select count(*) from moved_spending) >= 0 -- spending wallets are locked first, everywhere
              group by u.user_id order by u.user_id) m
        where w.user_id = m.user_id
    ), outcomes as (
        select b.transfer_id as id, case when b.refused is null then 'done' else 'refused' end as outcome, b.refused as code,
               b.promo, b.fee
        from booked b
        union all
        select a.id, case when not a.same then 'conflict' when a.known_refused is not null then 'refused' else 'replayed' end,
               a.known_refused, a.known_promo, a.known_fee
        from asked a where a.known is not null and (a.copy = 1 or not a.same)
    )
    select array_agg(r.id), array_agg(r.outcome), array_agg(r.code), array_agg(r.promo), array_agg(r.fee),
           (select array_agg(s.user_id) from moved_spending s), (select array_agg(s.coins) from moved_spending s)
    into v_ids, v_outcomes, v_codes, v_promos, v_fees, v_users, v_moved from outcomes r;
    if exists (select from meters m where m.payer_id = any (v_users) and m.state = 'running') then
        perform warn_payers(v_now, v_users, v_moved);
    end if;
    return query
    select u.id, u.outcome, u.code, u.promo, u.fee
    from unnest(v_ids, v_outcomes, v_codes, v_promos, v_fees) as u (id, outcome, code, promo, fee);
end
$$;
grant execute on function billing.post_transfers to talkmeter_app;

-- The same for payments from wallets to earnings, promotional coins first, which are most of all transfers: the wallet is
-- checked and debited by one update, as in a tick, and nothing is looked up beforehand. What that leaves over (no funds,
-- restricted, a second payment of one wallet) is decided by post_transfers; so is the whole call when an id was used
-- before or a payee is unknown, which the constraints and the count of credited wallets tell: the work is then undone.
create function billing.post_payments(
    p_now bigint, p_ids uuid[], p_kinds billing.transfer_kind[], p_payers bigint[], p_payees bigint[], p_coins bigint[],
    p_fee_bps int[], p_reasons text[]
) returns table (transfer_id uuid, outcome text, code text, promo bigint, fee bigint)
language plpgsql security definer
set search_path = billing, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now bigint := moment(p_now);
    v_done uuid[];
    v_promos bigint[];
    v_fees bigint[];
    v_payers bigint[];
    v_spent bigint[];
    v_credited int;
    v_payees int;
begin
    begin
        with asked as (
            select t.*, row_number() over (partition by t.payer order by t.n) as turn
            from unnest(p_ids, p_kinds, p_payers, p_payees, p_coins, p_fee_bps, p_reasons)
                 with ordinality as t (id, kind, payer, payee, coins, fee_bp, reason, n)
        ), paid as materialized (
            update spending_wallets w
            set last_promo = least(w.promo, a.coins), promo = w.promo - least(w.promo, a.coins),
                paid = w.paid - (a.coins - least(w.promo, a.coins)), v = w.v + 1
            from (select * from asked x where x.turn = 1 order by x.payer) a
            where w.user_id = a.payer and w.paid + w.promo >= a.coins and not w.restricted
            returning a.id, a.kind, a.payer, a.payee, a.coins, a.fee_bp, a.reason, w.last_promo as promo, w.tenant_id,
                      a.coins / 10000 * a.fee_bp + a.coins % 10000 * a.fee_bp / 10000 as fee
        ), booked as (
            insert into transfers as t (transfer_id, at_ms, debit_owner, credit_owner, coins, promo, fee, tenant_id, fee_bp,
                                        kind, debit, credit, bucket, reason)
            select p.id, v_now, p.payer, p.payee, p.coins, p.promo, p.fee, p.tenant_id, p.fee_bp, p.kind, 'wallet',
                   'earnings', 'auto', p.reason
            from paid p
            returning t.transfer_id, t.promo, t.fee, t.debit_owner, t.coins
        ), owed as materialized (
            select p.payee, p.tenant_id, sum(p.coins - p.fee)::bigint as earned
            from paid p group by p.payee, p.tenant_id order by p.payee
        ), earned as (
            update earning_wallets w
            set earned = w.earned + o.earned, v = w.v + 1
            from owed o where w.user_id = o.payee and w.tenant_id = o.tenant_id
            returning 1
        )
        select array_agg(b.transfer_id), array_agg(b.promo), array_agg(b.fee), array_agg(b.debit_owner),
               array_agg(-b.coins), (select count(*) from owed), (select count(*) from earned)
        into v_done, v_promos, v_fees, v_payers, v_spent, v_payees, v_credited from booked b;
        if v_credited <> v_payees then
            raise exception 'an unknown payee' using errcode = 'TM009';
        end if;
    exception
        when unique_violation or sqlstate 'TM009' then
            v_done := null;
    end;
    if v_done is not null then
        if exists (select from meters m where m.payer_id = any (v_payers) and m.state = 'running') then
            perform warn_payers(v_now, v_payers, v_spent);
        end if;
        return query
        select u.id, 'done', null::text, u.promo, u.fee from unnest(v_done, v_promos, v_fees) as u (id, promo, fee);
    end if;
    if coalesce(cardinality(v_done), 0) < cardinality(p_ids) then
        return query
        select r.* from (
            select array_agg(t.id) as ids, array_agg(t.kind) as kinds, array_agg(t.payer) as payers,
                   array_agg(t.payee) as payees, array_agg(t.coins) as coins, array_agg(t.fee_bp) as fee_bps,
                   array_agg(t.reason) as reasons, count(*)::int as n
            from unnest(p_ids, p_kinds, p_payers, p_payees, p_coins, p_fee_bps, p_reasons)
                 as t (id, kind, payer, payee, coins, fee_bp, reason)
            where t.id <> all (coalesce(v_done, '{}'))
        ) l, lateral post_transfers(v_now, l.ids, l.kinds, array_fill('wallet'::account, array[l.n]), l.payers,
            array_fill('earnings'::account, array[l.n]), l.payees, l.coins, array_fill('auto'::bucket, array[l.n]),
            l.fee_bps, l.reasons, array_fill(null::uuid, array[l.n])) r
        where l.n > 0;
    end if;
end
$$;
grant execute on function billing.post_payments to talkmeter_app;

-- One transfer, for the functions of this schema. Out: the outcome as above; 'unknown_account' when there was none.
create function billing.post(
    p_now bigint, p_id uuid, p_kind billing.transfer_kind, p_debit billing.account, p_debit_owner bigint,
    p_credit billing.account, p_credit_owner bigint, p_coins bigint, p_bucket billing.bucket, p_reason text,
    p_fee_bp int default 0, p_corrects uuid default null,
    out outcome text, out code text, out promo bigint, out fee bigint
) language plpgsql set search_path = billing, pg_temp as $$
begin
    select r.outcome, r.code, r.promo, r.fee into outcome, code, promo, fee
    from post_transfers(p_now, array[p_id], array[p_kind], array[p_debit], array[p_debit_owner], array[p_credit],
                        array[p_credit_owner], array[p_coins], array[p_bucket], array[p_fee_bp], array[p_reason],
                        array[p_corrects]) r;
    if not found then
        outcome := 'refused';
        code := 'unknown_account';
    end if;
end
$$;
-- Functions are open to everybody by default; these are not. Grants to the application stay.
revoke execute on all functions in schema billing from public;
