-- A driver whose situation is no longer the reviewed one is refused.
update pg_temp.planned
set
    outcome = 'refused',
    error = 'the situation has changed since the review'
from pg_temp.reviewed
where
    planned.driver_id = reviewed.driver_id
    and planned.fingerprint <> reviewed.fingerprint
