-- The rows of some drivers, in one pass over what they are counted in: where links have no index
-- by person, that is the least.
select orphans.*
from {orphans} as orphans
where orphans.driver_id = any(%(driver_ids)s)
order by array_position(%(driver_ids)s::varchar[], orphans.driver_id)
