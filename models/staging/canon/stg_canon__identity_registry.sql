select
    person_key,
    primary_phone,
    primary_license,
    primary_full_name,
    confidence_level::text as confidence_level
from {{ source('canon', 'identity_registry') }}
