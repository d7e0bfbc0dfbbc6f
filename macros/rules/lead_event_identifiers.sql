{#-
    What lead events say about a driver: one row per event and identifier in its payload, as
    kind:value. `events` is a relation with event_id and payload.

    A bare id is as a rule the lead's own: it names a driver only because it is compared with known
    driver ids further on. match_meta is a matcher's opinion, not a naming. ->> on a payload that is
    no object gives null, but an array or a string names nobody by rule.

    A macro, because it is asked twice: of all events, and in full of the few that speak for an
    orphan. unnest() is in the select list, not joined: so it takes part in a parallel scan; and it
    keeps the subquery one, so that a phone's digits are found once, however often they are looked
    at.
-#}
{% macro lead_event_identifiers(events) %}
    select
        event_id,
        case
            when said like 'phone:%'
                then 'phone:' || {{ phone_of_digits("substr(said, 7)") }}
            else said
        end as identifier
    from (
        select
            event_id,
            unnest(
                array_remove(
                    array[
                        'driver_id:' || (payload ->> 'driver_id'),
                        'driver_id:' || (payload ->> 'driverId'),
                        'driver_id:' || (payload ->> 'id'),
                        'driver_id:'
                        || case
                            when payload ? 'driver' then payload -> 'driver' ->> 'driver_id'
                        end,
                        'driver_id:'
                        || case
                            when payload ? 'driver' then payload -> 'driver' ->> 'driverId'
                        end,
                        'driver_id:'
                        || case when payload ? 'driver' then payload -> 'driver' ->> 'id' end,
                        'license:' || {{ normalize_license("(payload ->> 'driver_license')") }},
                        'phone:' || {{ phone_digits("(payload ->> 'driver_phone')") }},
                        'phone:' || {{ phone_digits("(payload ->> 'park_phone')") }}
                    ],
                    null
                )
            ) as said
        from {{ events }}
        where jsonb_typeof(payload) = 'object'
    ) as sayings
    where said not like 'phone:%' or {{ is_phone("substr(said, 7)") }}
{% endmacro %}
