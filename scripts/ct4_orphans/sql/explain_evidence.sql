-- What speaks for a driver's person now, and what a fix would do. Both are read whole, as a fix
-- does: for one driver PostgreSQL's estimates end in nested loops.
with verdicts as materialized (
    select *
    from ct4_orphans.int_all_orphan_verdicts
),

plan as materialized (
    select *
    from ops.v_orphan_fix_plan
)

select
    (
        select jsonb_build_object(
            'is_repairable', is_repairable,
            'evidence_level', evidence_level,
            'strategy', strategy,
            'lead_rows', lead_rows,
            'rivals', rivals,
            'weak_events', weak_events
        )
        from verdicts
        where person_key = %(person_key)s
        limit 1
    ) as evidence,
    (
        select jsonb_build_object(
            'action', action,
            'status', status,
            'requires_reprocess', requires_reprocess,
            'explanation', explanation
        )
        from plan
        where driver_id = %(driver_id)s
    ) as plan
