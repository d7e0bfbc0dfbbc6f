with quarantine as (

    select * from {{ ref('int_quarantine_state') }}

),

driver_links as (

    select * from {{ ref('int_driver_links') }}

),

lead_links as (

    select * from {{ ref('int_lead_links') }}

),

lead_events as (

    select * from {{ ref('stg_observational__lead_events') }}

),

quarantined_drivers as (

    select
        quarantine.driver_id,
        quarantine.detected_reason,
        quarantine.revision,
        driver_links.person_key,
        driver_links.match_rule
    from quarantine
    inner join driver_links on quarantine.driver_id = driver_links.driver_id
    where quarantine.status = 'quarantined'

),

leads as (

    select
        quarantined_drivers.driver_id,
        count(*) as leads_count,
        bool_or(lead_events.event_id is not null) as has_events,
        (
            array_agg(
                lead_links.source_table || ' ' || lead_links.source_pk
                order by lead_links.link_id
            )
        )[1] as first_lead
    from quarantined_drivers
    inner join lead_links on quarantined_drivers.person_key = lead_links.person_key
    left join lead_events
        on
            lead_links.source_table = lead_events.source_table
            and lead_links.source_pk = lead_events.source_pk
    group by quarantined_drivers.driver_id

),

final as (

    select
        quarantined_drivers.driver_id,
        quarantined_drivers.person_key,
        quarantined_drivers.match_rule as creation_rule,
        quarantined_drivers.detected_reason as reason,
        quarantined_drivers.revision + 1 as next_revision,
        leads.has_events,
        'Released: the person has a lead by now (' || leads.first_lead
        || case
            when
                leads.leads_count > 1
                then ' and ' || (leads.leads_count - 1) || ' more'
            else ''
        end || ').' as explanation
    from quarantined_drivers
    inner join leads on quarantined_drivers.driver_id = leads.driver_id

)

select * from final
