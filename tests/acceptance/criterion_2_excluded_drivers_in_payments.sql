-- instrucciones-deploy.md, criterion 2: v_payment_calculation shows no quarantined driver; nor a
-- purged one, whom a reviewer shut out for good.
select distinct
    shown.driver_id,
    quarantine.status
from {{ ref('v_payment_calculation') }} as shown
inner join {{ source('canon', 'driver_orphan_quarantine') }} as quarantine
    on shown.driver_id = quarantine.driver_id
where quarantine.status in ('quarantined', 'purged')
