-- The plan of this run: the rows of ops.v_orphan_fix_plan that the options ask for. Persons are
-- numbered, because the drivers of one person are never split, not by --limit and not by a batch.
-- A single person with more drivers than --limit is taken alone, or the limit would never pass it.
with plan as materialized (
    select
        *,
        not requires_reprocess or %(reprocess)s as is_asked_for
    from ops.v_orphan_fix_plan
),

persons as (
    select
        person_key,
        count(*) as drivers,
        sum(count(*)) over (order by person_key) as drivers_so_far,
        row_number() over (order by person_key) as person_no
    from plan
    where is_asked_for
    group by person_key
)

select
    plan.driver_id,
    plan.person_key,
    plan.action,
    plan.status,
    plan.detected_reason,
    plan.current_status,
    plan.next_revision,
    plan.creation_rule,
    plan.has_events,
    plan.evidence_level,
    plan.strategy,
    plan.lead_rows_count,
    plan.lead_rows,
    plan.rivals,
    plan.weak_events,
    plan.explanation,
    plan.license_masked,
    plan.phone_masked,
    -- What a reviewer saw, in one word: another situation has another fingerprint.
    encode(
        sha256(
            convert_to(
                jsonb_build_array(
                    plan.driver_id,
                    plan.person_key,
                    plan.action,
                    plan.status,
                    plan.detected_reason,
                    plan.current_status,
                    plan.next_revision,
                    plan.creation_rule,
                    plan.has_events,
                    plan.evidence_level,
                    plan.strategy,
                    plan.lead_rows,
                    plan.rivals,
                    plan.weak_events,
                    plan.explanation
                )::text,
                'UTF8'
            )
        ),
        'hex'
    ) as fingerprint,
    persons.person_no::int as person_no,
    (persons.drivers_so_far - persons.drivers)::int as drivers_before
from plan
inner join persons on plan.person_key = persons.person_key
where
    plan.is_asked_for
    and (
        %(limit)s::bigint is null
        or persons.drivers_so_far <= %(limit)s::bigint
        or persons.person_no = 1
    )
