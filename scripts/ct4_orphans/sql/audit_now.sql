-- The ledger as it is now, beside its last seal.
with newest as (
    select
        last_entry_id,
        protection
    from canon.driver_orphan_quarantine_seals
    order by seal_no desc
    limit 1
),

now_is as (
    select ({protection}) as protection
),

states as (
    select
        driver_id,
        person_key,
        detected_at,
        detected_reason,
        creation_rule,
        evidence_json,
        status,
        resolved_at,
        resolution_notes
    from (
        select
            *,
            row_number() over (partition by driver_id order by revision desc) as newest_first
        from canon.driver_orphan_quarantine_ledger
    ) as entries
    where newest_first = 1 and not is_withdrawn
)

select
    (select count(*) from canon.driver_orphan_quarantine_ledger) as entries,
    (
        select count(*)
        from canon.driver_orphan_quarantine_ledger
        where run_id is not null
    ) as entries_of_runs,
    (
        select count(*)
        from canon.driver_orphan_quarantine_ledger
        where
            entry_id > coalesce((select last_entry_id from newest), '-9223372036854775808'::bigint)
    ) as entries_not_sealed,
    (
        select coalesce(jsonb_agg(lines.line order by lines.line), '[]')
        from (
            select 'gone: ' || gone.line as line
            from newest
            cross join jsonb_array_elements_text(newest.protection) as gone (line)
            cross join now_is
            where not now_is.protection @> to_jsonb(gone.line)
            union all
            select 'new: ' || added.line
            from now_is
            cross join jsonb_array_elements_text(now_is.protection) as added (line)
            cross join newest
            where not newest.protection @> to_jsonb(added.line)
        ) as lines
    ) as protection_changes,
    (
        select coalesce(jsonb_agg(different.driver_id order by different.driver_id), '[]')
        from (
            select coalesce(states.driver_id, quarantine.driver_id) as driver_id
            from states
            full join canon.driver_orphan_quarantine as quarantine
                on states.driver_id = quarantine.driver_id
            where
                row(states.*)::text
                is distinct from row(
                    quarantine.driver_id,
                    quarantine.person_key,
                    quarantine.detected_at,
                    quarantine.detected_reason,
                    quarantine.creation_rule,
                    quarantine.evidence_json,
                    quarantine.status,
                    quarantine.resolved_at,
                    quarantine.resolution_notes
                )::text
            limit 100
        ) as different
    ) as drivers_shown_otherwise
