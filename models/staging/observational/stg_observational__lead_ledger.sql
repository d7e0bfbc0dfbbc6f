select
    person_key,
    attributed_source
from {{ source('observational', 'lead_ledger') }}
