-- instrucciones-deploy.md, criterion 2: v_ct4_eligible_drivers shows no quarantined driver; nor a
-- purged one, whom a reviewer shut out for good.
select distinct
    shown.driver_id,
    quarantine.status
from {{ ref('v_ct4_eligible_drivers') }} as shown
inner join {{ source('canon', 'driver_orphan_quarantine') }} as quarantine
    on shown.driver_id = quarantine.driver_id
where quarantine.status in ('quarantined', 'purged')
