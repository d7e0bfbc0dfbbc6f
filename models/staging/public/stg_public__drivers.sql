select
    driver_id,
    phone,
    license_number,
    license_normalized_number
from {{ source('public', 'drivers') }}
