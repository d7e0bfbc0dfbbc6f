-- Reviewed drivers that the plan no longer has: applied already, or something else happened.
insert into pg_temp.planned (driver_id, person_key, current_status, fingerprint, outcome, error)
select
    reviewed.driver_id,
    entry.person_key,
    entry.status,
    reviewed.fingerprint,
    case when is_applied then 'already applied' else 'refused' end,
    case when not is_applied then 'the fix would not touch this driver any more' end
from pg_temp.reviewed
left join canon.driver_orphan_quarantine as entry
    on reviewed.driver_id = entry.driver_id
cross join lateral (
    select
        coalesce(entry.evidence_json ->> 'fingerprint' = reviewed.fingerprint, false)
            as is_applied
) as states
where
    not exists (
        select 1
        from pg_temp.planned
        where planned.driver_id = reviewed.driver_id
    )
