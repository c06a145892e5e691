-- In: $1 meter. Out: the meter, its rates, charges, refunds and pauses as one JSON text, read at one moment; of charges that
-- have left the database, where they are.
select jsonb_build_object(
    'meter', to_jsonb(m),
    'rates', (select jsonb_agg(to_jsonb(r) order by r.from_period) from billing.meter_rates r where r.meter_id = $1),
    'charges', (select jsonb_agg(to_jsonb(c) order by c.period) from billing.charges c where c.meter_id = $1),
    'refunds', (select jsonb_agg(to_jsonb(f) order by f.at_ms, f.period) from billing.charge_refunds f where f.meter_id = $1),
    'archived', case when m.period > 0 then billing.archived_at($1) end,
    'pauses', (select jsonb_agg(to_jsonb(p) order by p.seq) from billing.meter_pauses p where p.meter_id = $1)
)::text
from billing.meters m where m.meter_id = $1
