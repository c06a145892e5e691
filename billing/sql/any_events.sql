-- Out: whether something has happened to meters that nobody has taken. By the index, as `take_events`: in a queue that
-- empties all the time, a scan would pass over all that is deleted and not yet vacuumed.
select min(event_id) is not null from billing.meter_events
