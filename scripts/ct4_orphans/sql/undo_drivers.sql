-- The drivers of a run with what an undo can do, one row each. Where anything happened to a person
-- since, all its drivers are left alone. Entries that were undone, and undos, are nothing that
-- happened: two runs can be undone one after the other, the newer one first.
with run as (
    select *
    from canon.driver_orphan_quarantine_ledger
    where run_id = %(run_id)s
),

since as (
    select
        newer.entry_id,
        newer.driver_id,
        newer.person_key
    from canon.driver_orphan_quarantine_ledger as newer
    where
        newer.entry_id > (select min(run.entry_id) from run)
        and newer.run_id is distinct from %(run_id)s
        and newer.undoes_run_id is null
        and not exists (
            select 1
            from canon.driver_orphan_quarantine_ledger as reversal
            where
                reversal.driver_id = newer.driver_id
                and reversal.undoes_run_id = newer.run_id
        )
),

judged as (
    select
        run.driver_id,
        run.person_key,
        run.revision,
        before.revision as revision_before,
        coalesce(before.is_withdrawn, true) as was_in_no_state,
        -- The driver link that an earlier purge had removed, and this run has put back.
        coalesce(
            before.status = 'purged'
            and not before.is_withdrawn
            and before.evidence_json @> '{"action": "resolve"}'
            and before.evidence_json ? 'driver_link'
            and run.status <> 'purged',
            false
        ) as was_without_link,
        exists (
            select 1
            from canon.driver_orphan_quarantine_ledger as reversal
            where
                reversal.driver_id = run.driver_id
                and reversal.undoes_run_id = run.run_id
        ) as is_undone,
        case
            when run.undoes_run_id is not null
                then 'the run is an undo itself'
            when
                exists (
                    select 1
                    from since
                    where since.driver_id = run.driver_id and since.entry_id > run.entry_id
                )
                then 'it has a newer ledger entry'
            when
                exists (
                    select 1
                    from since
                    where since.person_key = run.person_key and since.entry_id > run.entry_id
                )
                then 'another driver of its person has a newer ledger entry'
        end as refusal
    from run
    left join canon.driver_orphan_quarantine_ledger as before
        on run.driver_id = before.driver_id and run.revision - 1 = before.revision
)

select
    driver_id,
    person_key,
    revision,
    revision_before,
    was_in_no_state,
    was_without_link,
    is_undone,
    case
        when is_undone then 'it is undone already'
        else
            coalesce(
                refusal,
                case
                    when bool_or(refusal is not null) over (partition by person_key)
                        then 'another driver of its person is left as it is'
                end
            )
    end as refusal
from judged
