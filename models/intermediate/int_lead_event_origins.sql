-- Two branches, because only events without a person need a link, and because each then
-- reads the origin where it reads the event: no payload is carried through the joins.
-- Each joins the driver, for the sake of who asks about one: the indexes of links and
-- events then answer.
with lead_events as not materialized (

    select * from {{ ref('stg_observational__lead_events') }}

),

lead_sources as not materialized (

    select * from {{ ref('lead_sources') }}

),

lead_ledger as (

    select * from {{ ref('stg_observational__lead_ledger') }}

),

links as (

    select * from {{ ref('stg_canon__identity_links') }}

),

current_drivers as not materialized (

    select * from {{ ref('int_current_drivers') }}

),

by_person_key as (

    select
        lead_events.event_id,
        lead_events.event_date,
        lead_events.scout_id,
        lead_events.person_key,
        current_drivers.driver_id,
        current_drivers.match_rule,
        current_drivers.confidence_level,
        current_drivers.snapshot_at,
        coalesce(
            lead_events.payload ->> 'origin_tag', lead_sources.origin_tag
        ) as own_origin,
        false as is_by_lead_link
    from lead_events
    left join lead_sources on lead_events.source_table = lead_sources.source_table
    left join current_drivers on lead_events.person_key = current_drivers.person_key
    where lead_events.person_key is not null

),

-- CT4's own view does not see these: without them a relinked driver would stay unpaid
-- until CT4's next backfill.
by_lead_link as (

    select
        lead_events.event_id,
        lead_events.event_date,
        lead_events.scout_id,
        links.person_key,
        current_drivers.driver_id,
        current_drivers.match_rule,
        current_drivers.confidence_level,
        current_drivers.snapshot_at,
        coalesce(
            lead_events.payload ->> 'origin_tag', lead_sources.origin_tag
        ) as own_origin,
        true as is_by_lead_link
    from lead_events
    inner join links
        on
            lead_events.source_table = links.source_table
            and lead_events.source_pk = links.source_pk
    left join lead_sources on lead_events.source_table = lead_sources.source_table
    left join current_drivers on links.person_key = current_drivers.person_key
    where lead_events.person_key is null

),

event_persons as (

    select * from by_person_key
    union all
    select * from by_lead_link

),

final as (

    select
        event_persons.event_id,
        event_persons.event_date,
        event_persons.scout_id,
        event_persons.person_key,
        coalesce(
            event_persons.own_origin, lead_ledger.attributed_source, 'unknown'
        )::text as origin_tag,
        event_persons.is_by_lead_link,
        event_persons.driver_id,
        event_persons.match_rule,
        event_persons.confidence_level,
        event_persons.snapshot_at
    from event_persons
    -- Only who needs the ledger's word is looked up.
    left join
        lead_ledger
        on
            case when event_persons.own_origin is null then event_persons.person_key end
            = lead_ledger.person_key

)

select * from final
