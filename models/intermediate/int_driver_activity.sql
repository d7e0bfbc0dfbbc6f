with driver_links as (

    select * from {{ ref('int_driver_links') }}

),

history as (

    select * from {{ ref('int_driver_history') }}

),

driver_leads as (

    select * from {{ ref('int_driver_leads') }}

),

-- Drivers with a payment or a conversion row have a link: linked drivers, and those
-- with trips, are all there are.
joined as (

    select
        coalesce(driver_links.driver_id::text, history.driver_id) as driver_id,
        driver_links.person_key,
        driver_leads.origin_tag,
        driver_links.driver_id is not null as has_link,
        {{ first_connection('history', 'driver_leads.latest_lead_date') }}
            as first_connection_date,
        {{ trips_within('history', 'driver_leads.latest_lead_date', 30) }} as trips_30d,
        history.days[{{ row_reaching('history', 1, 0) }}] as m1_date,
        history.days[{{ row_reaching('history', 5, 0) }}] as m5_date,
        history.days[{{ row_reaching('history', 25, 0) }}] as m25_date
    from driver_links
    full join history on driver_links.driver_id::text = history.driver_id
    left join
        driver_leads
        on
            coalesce(driver_links.driver_id::text, history.driver_id)
            = driver_leads.driver_id

),

final as (

    select
        driver_id,
        person_key,
        origin_tag,
        first_connection_date,
        trips_30d,
        m1_date,
        m5_date,
        m25_date
    from joined
    where has_link or m1_date is not null

)

select * from final
