-- instrucciones-deploy.md, criterion 2: v_cabinet_funnel_status shows no quarantined driver; nor a
-- purged one, whom a reviewer shut out for good.
select distinct
    shown.driver_id,
    quarantine.status
from {{ ref('v_cabinet_funnel_status') }} as shown
inner join {{ source('canon', 'driver_orphan_quarantine') }} as quarantine
    on shown.driver_id = quarantine.driver_id
where quarantine.status in ('quarantined', 'purged')
