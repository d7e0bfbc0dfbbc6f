-- Criterion 5, integrity: a driver that was let out because of a lead still has one.
-- Red when someone removed the lead link: run the fix, which finds the driver again.
select
    quarantine.driver_id,
    quarantine.status
from {{ source('canon', 'driver_orphan_quarantine') }} as quarantine
inner join {{ ref('int_orphan_drivers') }} as orphan_drivers
    on quarantine.driver_id = orphan_drivers.driver_id
where quarantine.status in ('resolved_relinked', 'resolved_created_lead')
