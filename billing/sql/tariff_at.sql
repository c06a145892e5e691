-- In: $1 tenant, $2 host, $3 subject, $4 unix ms. Out: the latest version in force then: the host's own before the tenant's.
select version, host_id, tariff::text as tariff
from billing.tariffs
where tenant_id = $1 and host_id in ($2, 0) and subject = $3 and from_ms <= $4
order by host_id = 0, from_ms desc, version desc
limit 1
