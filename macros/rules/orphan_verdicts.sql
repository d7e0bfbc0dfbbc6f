{#-
    What the evidence means for each orphan that is not purged. A macro, so that
    int_all_orphan_verdicts has this step in one statement with the others, and each of them once;
    the model of this name has it alone.
-#}
{% macro orphan_verdicts(orphans, evidence) %}
    with orphan_drivers as (

        select * from {{ orphans }}

    ),

    evidence as (

        select * from {{ evidence }}

    ),

    quarantine as (

        select * from {{ ref('int_quarantine_state') }}

    ),

    candidates as (

        select
            orphan_drivers.driver_id,
            orphan_drivers.person_key,
            orphan_drivers.match_rule as creation_rule,
            quarantine.status as current_status,
            quarantine.detected_reason as current_reason,
            coalesce(quarantine.revision, 0) + 1 as next_revision,
            coalesce(quarantine.status = 'quarantined', false) as is_quarantined,
            coalesce(quarantine.status = 'purged', false) as is_purged
        from orphan_drivers
        left join quarantine on orphan_drivers.driver_id = quarantine.driver_id

    ),

    verdicts as (

        select
            candidates.*,
            evidence.is_repairable,
            evidence.has_events,
            evidence.evidence_level,
            evidence.strategy,
            evidence.lead_rows_count,
            evidence.lead_rows,
            evidence.refusals,
            evidence.refused_events_count,
            evidence.rivals,
            evidence.weak_events_count,
            evidence.weak_events,
            -- One driver that is not in quarantine makes the whole person a case.
            bool_and(candidates.is_quarantined) filter (where not candidates.is_purged)
                over (
                    partition by candidates.person_key
                ) as is_whole_person_quarantined,
            case
                when evidence.has_events then 'no_lead_has_events_repair_failed'
                else 'no_lead_no_events'
            end as computed_reason
        from candidates
        inner join evidence on candidates.person_key = evidence.person_key

    ),

    -- Purged is a reviewer's decision: such a driver is never touched.
    final as (

        select
            *,
            -- A reason given by hand is a person's; the machine does not overwrite it.
            is_quarantined
            and (
                computed_reason = current_reason
                or current_reason in ('legacy_driver_without_origin', 'manual_detection')
            ) as is_quarantine_unchanged
        from verdicts
        where not is_purged

    )

    select * from final
{% endmacro %}
