-- Out: whether something has happened to meters that nobody has taken.
select exists (select from billing.meter_events)
