-- What stands in the way of a decision by hand, one row: `refusal` is null when nothing does,
-- `is_done` when the driver is in that state already.
with link as (
    select
        id,
        person_key,
        match_rule
    from canon.identity_links
    where source_table = 'drivers' and source_pk = %(driver_id)s
),

entry as (
    select *
    from canon.driver_orphan_quarantine
    where driver_id = %(driver_id)s
),

situation as (
    select
        (select status::text from entry) as status,
        (select detected_reason::text from entry) as detected_reason,
        exists (select 1 from link) as is_linked,
        exists (select 1 from entry) as is_entered,
        coalesce((select person_key from link), (select person_key from entry)) as person_key,
        coalesce(
            (
                select evidence_json @> '{"action": "resolve"}' and evidence_json ? 'driver_link'
                from entry
            ),
            false
        ) as has_kept_link
),

judged as (
    select
        situation.*,
        exists (
            select 1
            from ct4_orphans.int_lead_links
            where int_lead_links.person_key = situation.person_key
        ) as has_lead
    from situation
)

select
    status as current_status,
    status = %(status)s
    and (%(status)s <> 'purged' or not is_linked)
    and (
        %(status)s <> 'quarantined'
        or %(reason)s::text is null
        or %(reason)s = detected_reason
    ) as is_done,
    case
        when not is_linked and not is_entered
            then
                'This database knows no such driver: it has no driver link and no quarantine '
                'entry. Check the id.'
        when %(status)s = 'quarantined' and has_lead
            then
                'Its person has a lead, so the next fix would release it again. To shut it out '
                'for good: --status purged.'
        when %(status)s = 'quarantined' and not is_linked and not has_kept_link
            then 'It has no driver link, so there is nothing to keep out.'
        when %(status)s = 'resolved_created_lead' and not is_entered
            then 'It is in no quarantine, so there is nothing to release it from.'
        when %(status)s = 'resolved_created_lead' and not has_lead
            then
                'Its person has no lead, and no driver may operate without one. Link the lead in '
                'CT4 (canon.identity_links) first.'
    end as refusal
from judged
