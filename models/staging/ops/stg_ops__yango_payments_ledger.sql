select
    driver_id_final as driver_id,
    identity_status,
    match_rule,
    match_confidence,
    latest_snapshot_at
from {{ source('ops', 'v_yango_payments_ledger_latest_enriched') }}
