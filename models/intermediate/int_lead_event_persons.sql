with lead_events as (

    select * from {{ ref('stg_observational__lead_events') }}

),

links as (

    select * from {{ ref('stg_canon__identity_links') }}

),

final as (

    select
        lead_events.event_id,
        lead_events.source_table,
        lead_events.event_date,
        lead_events.scout_id,
        lead_events.payload,
        coalesce(lead_events.person_key, links.person_key) as person_key,
        -- CT4's own view does not see these: without them a relinked driver would stay
        -- unpaid until CT4's next backfill.
        lead_events.person_key is null as is_by_lead_link
    from lead_events
    left join links
        on
            lead_events.person_key is null
            and lead_events.source_table = links.source_table
            and lead_events.source_pk = links.source_pk
    where coalesce(lead_events.person_key, links.person_key) is not null

)

select * from final
