{#-
    Where the payload of a lead event names a driver, and has a licence and phones: ct4-database.md,
    "Lead event payloads". Expressions over a column named payload.

    A bare id is as a rule the lead's own: it names a driver only because it is compared with known
    driver ids further on. match_meta is a matcher's opinion, not a naming.
-#}
{% macro places_of_driver_ids() %}
    {{ return([
        "(payload ->> 'driver_id')",
        "(payload ->> 'driverId')",
        "(payload ->> 'id')",
        "(payload -> 'driver' ->> 'driver_id')",
        "(payload -> 'driver' ->> 'driverId')",
        "(payload -> 'driver' ->> 'id')",
    ]) }}
{% endmacro %}

{% macro places_of_licenses() %}
    {{ return(["(payload ->> 'driver_license')"]) }}
{% endmacro %}

{% macro places_of_phones() %}
    {{ return(["(payload ->> 'driver_phone')", "(payload ->> 'park_phone')"]) }}
{% endmacro %}
