-- Materialized, or the union would look for evidence twice.
with verdicts as materialized (

    select * from {{ ref('int_all_orphan_verdicts') }}

),

strategies as (

    select * from {{ ref('evidence_strategies') }}

),

relinks as (

    select
        verdicts.*,
        'relink' as action,
        'resolved_relinked' as new_status,
        -- The first detection found events that CT4 had not linked; a quarantine keeps
        -- its reason.
        case
            when verdicts.is_quarantined then verdicts.current_reason
            else 'no_lead_has_events_repair_failed'
        end as reason,
        verdicts.is_whole_person_quarantined as requires_reprocess,
        'Relinked: ' || verdicts.lead_rows_count
        || case
            when verdicts.lead_rows_count = 1 then ' lead event ' else ' lead events '
        end
        || 'at evidence level ' || verdicts.evidence_level || '; the strongest '
        || strategies.says || ' (' || verdicts.strategy || ').' as explanation
    from verdicts
    inner join strategies on verdicts.strategy = strategies.strategy
    where verdicts.is_repairable

),

quarantines as (

    select
        verdicts.*,
        'quarantine' as action,
        'quarantined' as new_status,
        verdicts.computed_reason as reason,
        verdicts.is_quarantined as requires_reprocess,
        case
            when verdicts.has_events
                then
                    'Quarantined: ' || verdicts.refused_events_count
                    || ' lead event(s) match, but none proves a lead ('
                    || replace(array_to_string(verdicts.refusals, ', '), '_', ' ')
                    || ').'
            when verdicts.weak_events_count > 0
                then
                    'Quarantined: no lead event names the driver or has its licence or '
                    || 'phone; ' || verdicts.weak_events_count
                    || ' carry only its person_key, which proves nothing.'
            else
                'Quarantined: no lead event names the driver or has its licence or '
                || 'phone.'
        end as explanation
    from verdicts
    where not verdicts.is_repairable and not verdicts.is_quarantine_unchanged

),

final as (

    select * from relinks
    union all
    select * from quarantines

)

select * from final
