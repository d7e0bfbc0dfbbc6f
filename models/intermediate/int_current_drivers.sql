-- Without CTEs, like int_driver_links: a question about one driver reaches the links.
select
    driver_links.person_key,
    driver_links.driver_id,
    driver_links.match_rule,
    driver_links.confidence_level,
    driver_links.snapshot_at
from {{ ref('int_driver_links') }} as driver_links
where
    not exists (
        select 1
        from {{ ref('int_driver_links') }} as newer
        where
            newer.person_key = driver_links.person_key
            and (newer.linked_at, newer.link_id)
            > (driver_links.linked_at, driver_links.link_id)
    )
