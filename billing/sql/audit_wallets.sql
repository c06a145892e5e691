-- In: $1 user id after which to look, $2 how many users. Out: per user the stored wallet and what the journal adds up to;
-- one row says how far the look went (fault null). Reads one moment. Faults: wallet_entries (a bucket differs from its
-- entries), negative.
with users as materialized (
    select s.user_id, s.paid::bigint as paid, s.promo::bigint as promo, e.earned::bigint as earned
    from billing.spending_wallets s left join billing.earning_wallets e using (user_id)
    where s.user_id > $1 order by s.user_id limit $2
), span as materialized (
    select min(user_id) as low, max(user_id) as high, count(*) as n from users
), entries as materialized (
    select t.debit_owner as user_id,
           sum(t.promo - t.coins) filter (where t.debit = 'wallet') as paid,
           sum(-t.promo) filter (where t.debit = 'wallet') as promo,
           sum(-t.coins) filter (where t.debit = 'earnings') as earned
    from billing.transfers t, span
    where t.debit_owner between span.low and span.high and t.debit in ('wallet', 'earnings') and t.refused is null
    group by t.debit_owner
    union all
    select t.credit_owner,
           sum(t.coins - t.promo) filter (where t.credit = 'wallet'),
           sum(t.promo) filter (where t.credit = 'wallet'),
           sum(t.coins - t.fee) filter (where t.credit = 'earnings')
    from billing.transfers t, span
    where t.credit_owner between span.low and span.high and t.credit in ('wallet', 'earnings') and t.refused is null
    group by t.credit_owner
    union all
    select m.payer_id, -sum(m.spent_paid), -sum(m.spent_promo), 0
    from billing.meters m, span where m.payer_id between span.low and span.high group by m.payer_id
    union all
    select m.payee_id, 0, 0, sum(m.share)
    from billing.meters m, span
    where m.payee_id between span.low and span.high and m.state = 'ended' group by m.payee_id
), sums as materialized (
    select user_id, coalesce(sum(paid), 0) as paid, coalesce(sum(promo), 0) as promo, coalesce(sum(earned), 0) as earned
    from entries group by user_id
)
select null::text as fault, (select n from span) as examined, (select high from span)::text as key, null::text as detail
union all
select 'wallet_entries', null, u.user_id::text,
       format('wallet %s/%s/%s, journal %s/%s/%s', u.paid, u.promo, u.earned, coalesce(s.paid, 0), coalesce(s.promo, 0),
              coalesce(s.earned, 0))
from users u left join sums s using (user_id)
where (u.paid, u.promo, u.earned) is distinct from (coalesce(s.paid, 0), coalesce(s.promo, 0), coalesce(s.earned, 0))
