with conversions as (

    select * from {{ ref('int_conversions') }}

),

history as (

    select * from {{ ref('int_driver_history') }}

),

final as (

    select
        conversions.person_key,
        conversions.origin_tag,
        conversions.driver_id,
        conversions.lead_date,
        {{ first_connection('history', 'conversions.lead_date') }}
            as first_connection_date,
        {{ trips_within('history', 'conversions.lead_date', 7) }} as trips_7d,
        {{ trips_within('history', 'conversions.lead_date', 14) }} as trips_14d,
        {{ trips_within('history', 'conversions.lead_date', 30) }} as trips_30d
    from conversions
    left join history on conversions.driver_id = history.driver_id

)

select * from final
