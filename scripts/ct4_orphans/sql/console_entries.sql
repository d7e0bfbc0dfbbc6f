-- What the list is found and sorted by, for every driver ever in the quarantine.
select
    driver_id::text as driver_id,
    status,
    detected_reason,
    detected_at,
    last_recorded_at as last_updated_at
from ct4_orphans.int_quarantine_state
where status is not null
order by driver_id collate "C"
