-- The same rows, driver by driver: with an index on the person of a link each is had in no time.
-- (offset 0 keeps PostgreSQL from making it a join with the whole view.)
select orphans.*
from unnest(%(driver_ids)s::varchar[]) with ordinality as wanted (driver_id, position)
cross join lateral (
    select *
    from {orphans} as of_driver
    where of_driver.driver_id = wanted.driver_id
    offset 0
) as orphans
order by wanted.position
