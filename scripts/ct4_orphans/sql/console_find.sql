-- The drivers that the list is asked for, in its order; {order} is one of the console's own.
select driver_id::text as driver_id
from ct4_orphans.int_quarantine_state
where
    status is not null
    and (%(status)s::text is null or status = %(status)s)
    and (%(detected_reason)s::text is null or detected_reason = %(detected_reason)s)
    and (%(driver_id)s::text is null or left(driver_id, length(%(driver_id)s)) = %(driver_id)s)
order by {order}
