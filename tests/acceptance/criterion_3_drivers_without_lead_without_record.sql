-- instrucciones-deploy.md, criterion 3: every driver without a lead has a record in the
-- quarantine.
select
    driver_links.source_pk as driver_id,
    driver_links.person_key
from {{ source('canon', 'identity_links') }} as driver_links
where
    driver_links.source_table = 'drivers'
    and not exists (
        select 1
        from {{ source('canon', 'identity_links') }} as lead_links
        where
            lead_links.person_key = driver_links.person_key
            and lead_links.source_table in (
                'module_ct_cabinet_leads',
                'module_ct_scouting_daily',
                'module_ct_migrations'
            )
    )
    and not exists (
        select 1
        from {{ source('canon', 'driver_orphan_quarantine') }} as quarantine
        where quarantine.driver_id = driver_links.source_pk
    )
