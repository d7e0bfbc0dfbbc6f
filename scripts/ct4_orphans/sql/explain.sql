-- All that is known of one driver, one row: links, leads, history, and which views
-- show it. The person is given as a value: from a subquery it would not be pushed down into views.
with entries as (
    select *
    from canon.driver_orphan_quarantine_ledger
    where driver_id = %(driver_id)s
),

driver_link as (
    select *
    from ct4_orphans.int_driver_links
    where driver_id = %(driver_id)s
)

select
    %(driver_id)s::text as driver_id,
    %(person_key)s::text as person_key,
    (
        select jsonb_build_object(
            'match_rule', match_rule,
            'confidence_level', confidence_level,
            'snapshot_at', snapshot_at,
            'linked_at', linked_at
        )
        from driver_link
    ) as driver_link,
    coalesce(
        (
            select jsonb_agg(
                jsonb_build_object('source_table', source_table, 'source_pk', source_pk)
                order by link_id
            )
            from ct4_orphans.int_lead_links
            where person_key = %(person_key)s::uuid
        ),
        '[]'
    ) as leads,
    exists (
        select 1
        from ct4_orphans.int_orphan_drivers
        where driver_id = %(driver_id)s
    ) as is_orphan,
    (
        select jsonb_build_object(
            'status', status,
            'detected_reason', detected_reason,
            'detected_at', detected_at,
            'resolved_at', resolved_at,
            'resolution_notes', resolution_notes,
            'explanation', evidence_json ->> 'explanation',
            -- Without what CT4 had written into its evidence: personal data, of any depth.
            'kept_driver_link', case
                when jsonb_typeof(evidence_json -> 'driver_link') = 'object'
                    then (evidence_json -> 'driver_link') - 'evidence'
            end
        )
        from canon.driver_orphan_quarantine
        where driver_id = %(driver_id)s
    ) as quarantine,
    coalesce(
        (
            select jsonb_agg(
                jsonb_build_object(
                    'revision', revision,
                    'recorded_at', recorded_at,
                    'recorded_by', recorded_by,
                    'actor', (
                        select parameters ->> 'actor'
                        from canon.driver_orphan_quarantine_seals as seals
                        where seals.run_id = entries.run_id
                        order by seals.seal_no
                        limit 1
                    ),
                    'status', case when not is_withdrawn then status::text end,
                    'detected_reason', detected_reason,
                    'run_id', run_id,
                    'undoes_run_id', undoes_run_id,
                    'explanation',
                    coalesce(evidence_json ->> 'explanation', resolution_notes)
                )
                order by revision
            )
            from entries
        ),
        '[]'
    ) as history,
    jsonb_build_object(
        'ops.v_driver_orphans', exists (
            select 1 from ops.v_driver_orphans where driver_id = %(driver_id)s
        ),
        'ops.v_cabinet_funnel_status', exists (
            select 1 from ops.v_cabinet_funnel_status where driver_id = %(driver_id)s
        ),
        'ops.v_payment_calculation', exists (
            select 1 from ops.v_payment_calculation where driver_id = %(driver_id)s
        ),
        'ops.v_ct4_eligible_drivers', exists (
            select 1 from ops.v_ct4_eligible_drivers where driver_id = %(driver_id)s
        )
    ) as shown_in,
    exists (
        select 1
        from ct4_orphans.int_excluded_drivers
        where driver_id = %(driver_id)s
    ) as is_excluded
