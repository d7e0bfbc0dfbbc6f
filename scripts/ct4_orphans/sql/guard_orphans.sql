-- How many drivers break criterion 1 now.
select count(*) as orphans
from canon.identity_links as driver_links
where
    driver_links.source_table = 'drivers'
    and not exists (
        select 1
        from canon.identity_links as lead_links
        where
            lead_links.person_key = driver_links.person_key
            and lead_links.source_table = any(%(lead_sources)s::text[])
    )
    and not exists (
        select 1
        from canon.driver_orphan_quarantine as quarantine
        where
            quarantine.driver_id = driver_links.source_pk
            and quarantine.status = 'quarantined'
    )
