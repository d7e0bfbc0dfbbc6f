-- Persons of this batch whose situation is no longer the planned one: they are left for the next
-- run. Another service may have linked a lead, taken a lead row, given the event to
-- another person, or moved the driver meanwhile.
update pg_temp.planned
set outcome = 'changed'
where
    person_no between %(first)s and %(last)s
    and outcome is null
    and person_key in (
        select planned.person_key
        from pg_temp.planned
        left join ct4_orphans.int_driver_links as driver_links
            on planned.driver_id = driver_links.driver_id
        left join (
            select
                driver_id,
                max(revision) as revision
            from canon.driver_orphan_quarantine_ledger
            where driver_id in (
                select batch.driver_id
                from pg_temp.planned as batch
                where batch.person_no between %(first)s and %(last)s
            )
            group by driver_id
        ) as ledger on planned.driver_id = ledger.driver_id
        left join (
            select distinct person_key
            from ct4_orphans.int_lead_links
            where person_key in (
                select batch.person_key
                from pg_temp.planned as batch
                where batch.person_no between %(first)s and %(last)s
            )
        ) as leads on planned.person_key = leads.person_key
        where
            planned.person_no between %(first)s and %(last)s
            and planned.outcome is null
            and (
                driver_links.person_key is distinct from planned.person_key
                or coalesce(ledger.revision, 0) + 1 <> planned.next_revision
                or (leads.person_key is not null) <> (planned.action = 'release')
                or exists (
                    select 1
                    from
                        jsonb_to_recordset(planned.lead_rows) as lead_rows (event_id int)
                    left join ct4_orphans.stg_observational__lead_events as lead_events
                        on lead_rows.event_id = lead_events.event_id
                    where
                        lead_events.event_id is null
                        or lead_events.person_key <> planned.person_key
                )
                or exists (
                    select 1
                    from
                        jsonb_to_recordset(planned.lead_rows)
                            as lead_rows (source_table text, source_pk text)
                    inner join canon.identity_links
                        on
                            lead_rows.source_table = identity_links.source_table
                            and lead_rows.source_pk = identity_links.source_pk
                )
            )
    )
