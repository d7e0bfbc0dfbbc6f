-- instrucciones-deploy.md, criterion 2: v_cabinet_funnel_status shows no quarantined
-- driver; nor a purged one, whom a reviewer shut out for good.
select distinct shown.driver_id
from {{ ref('v_cabinet_funnel_status') }} as shown
where
    exists (
        select 1
        from {{ source('canon', 'driver_orphan_quarantine') }} as quarantine
        where
            quarantine.driver_id = shown.driver_id
            and quarantine.status in ('quarantined', 'purged')
    )
