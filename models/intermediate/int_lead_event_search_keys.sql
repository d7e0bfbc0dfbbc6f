-- What int_lead_source_identifiers says, but rough: without kinds, and of a phone its
-- end only. So it finds all events that can speak for a driver, and now and then one
-- more; but it is asked of all events, and takes half the time. unnest() is in the
-- select list, not joined: so it takes part in a parallel scan.
with lead_events as (

    select * from {{ ref('stg_observational__lead_events') }}

),

final as (

    select
        event_id,
        unnest(
            array_remove(
                array[
                    {% for place in places_of_driver_ids() %}
                        {{ place }},
                    {% endfor %}
                    {% for place in places_of_licenses() %}
                        {{ normalize_license(place) }},
                    {% endfor %}
                    {% for place in places_of_phones() %}
                        {{ end_of_phone(phone_digits(place)) }}
                        {{ ',' if not loop.last }}
                    {% endfor %}
                ],
                null
            )
        ) as search_key
    from lead_events

)

select * from final
