-- Criterion 5, integrity: the ledger is append-only, so a driver's revisions run from 1
-- without a gap (none is below 1 or there twice: the table sees to that). A gap means
-- that someone went round the triggers and removed history.
select
    driver_id,
    count(*) as entries,
    max(revision) as newest_revision
from {{ source('canon', 'driver_orphan_quarantine_ledger') }}
group by driver_id
having count(*) <> max(revision)
