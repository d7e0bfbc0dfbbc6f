select
    entry_id,
    driver_id,
    revision,
    recorded_at
from {{ source('canon', 'driver_orphan_quarantine_ledger') }}
