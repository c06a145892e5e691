-- In: :partition, a quoted table name (COPY takes no parameters). Out: its charges in order.
select meter_id, period, at_ms, price, promo, share, fee, tax from :partition order by meter_id, period
