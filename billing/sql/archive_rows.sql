-- In: :partition, a quoted table name, :first and :after, quoted ids (COPY takes no parameters). Out: the charges of the
-- meters from the first up to, not with, the one after, in order.
select meter_id, period, at_ms, price, promo, share, fee, tax from :partition
where meter_id >= :first and meter_id < :after order by meter_id, period
