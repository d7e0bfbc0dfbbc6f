-- A driver whose situation is no longer the reviewed one is refused. One of the same person that is
-- not in the review was not there then.
update pg_temp.planned
set
    outcome = compared.outcome,
    error = 'the situation has changed since the review'
from (
    select
        planned.driver_id,
        case when reviewed.driver_id is null then 'not reviewed' else 'refused' end as outcome
    from pg_temp.planned
    left join pg_temp.reviewed on planned.driver_id = reviewed.driver_id
    where reviewed.fingerprint is distinct from planned.fingerprint
) as compared
where planned.driver_id = compared.driver_id
