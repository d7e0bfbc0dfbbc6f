-- States of the quarantine that break a rule: adopted as they are, named, and put right by the fix
-- or by a person. Reads CT4's tables and the name everyone knows only, so it works before a
-- migration too.
with leads as (
    select distinct person_key
    from canon.identity_links
    where source_table = any(%(lead_sources)s)
),

states as (
    select
        quarantine.driver_id,
        quarantine.status::text as status,
        driver_links.person_key is not null as is_linked,
        leads.person_key is not null as has_lead
    from canon.driver_orphan_quarantine as quarantine
    left join canon.identity_links as driver_links
        on
            quarantine.driver_id = driver_links.source_pk
            and driver_links.source_table = 'drivers'
    left join leads on driver_links.person_key = leads.person_key
)

select
    'Let out without a lead' as problem,
    'The fix finds them again: orphans fix' as remedy,
    false as needs_a_person,
    array_agg(driver_id::text order by driver_id) as drivers
from states
where
    status in ('resolved_relinked', 'resolved_created_lead')
    and is_linked
    and not has_lead
having count(*) > 0

union all

select
    'Purged, but still linked to a person without a lead',
    'Remove the link: orphans resolve DRIVER_ID --status purged --note "…"',
    true,
    array_agg(driver_id::text order by driver_id)
from states
where
    status = 'purged'
    and is_linked
    and not has_lead
having count(*) > 0
