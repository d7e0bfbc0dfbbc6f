-- The drivers of a run with what an undo can do, one row each. A driver whose situation changed
-- since, and with it the whole person, is left alone.
with run as (
    select
        entry.*,
        not exists (
            select 1
            from canon.driver_orphan_quarantine_ledger as newer
            where newer.driver_id = entry.driver_id and newer.revision > entry.revision
        ) as is_newest
    from canon.driver_orphan_quarantine_ledger as entry
    where entry.run_id = %(run_id)s
),

judged as (
    select
        run.driver_id,
        run.person_key,
        run.revision,
        before.revision as revision_before,
        coalesce(before.is_withdrawn, true) as was_in_no_state,
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
            when not run.is_newest
                then 'it has a newer ledger entry'
            when before.status = 'purged' and run.status <> 'purged'
                then 'it was purged before: use orphans resolve'
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
    is_undone,
    coalesce(
        refusal,
        case
            when bool_or(refusal is not null) over (partition by person_key)
                then 'another driver of its person is left as it is'
        end
    ) as refusal
from judged
