select
    driver_id,
    phone_norm as phone,
    license_norm as license
from {{ source('canon', 'drivers_index') }}
