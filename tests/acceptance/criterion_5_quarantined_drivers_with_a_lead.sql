-- Criterion 5, integrity, the other direction: nobody who has a lead is shut out of
-- pay. Red when a lead arrived after the quarantine: run the fix, which releases the
-- driver.
select
    quarantine.driver_id,
    driver_links.person_key
from {{ source('canon', 'driver_orphan_quarantine') }} as quarantine
inner join {{ ref('int_driver_links') }} as driver_links
    on quarantine.driver_id = driver_links.driver_id
where
    quarantine.status = 'quarantined'
    and exists (
        select 1
        from {{ ref('int_lead_links') }} as lead_links
        where lead_links.person_key = driver_links.person_key
    )
