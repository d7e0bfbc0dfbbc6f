{#-
    What a payload says of a driver: an array of the places in it that are filled. As kind:value,
    with a phone's digits; or, for the rough search of all events, values alone, and of a phone its
    end. The places are those of ct4-database.md, "Lead event payloads".

    A bare id is as a rule the lead's own: it names a driver only because it is compared with known
    driver ids further on. match_meta is a matcher's opinion, not a naming.
-#}
{% macro said_by_payload(payload, is_rough=false) %}
    array_remove(
        array[
            {%- for name in ["driver_id", "driverId", "id"] %}
            {{ "'driver_id:' || " if not is_rough }}({{ payload }} ->> '{{ name }}'),
            {{ "'driver_id:' || " if not is_rough }}({{ payload }} -> 'driver' ->> '{{ name }}'),
            {%- endfor %}
            {%- for name in ["driver_phone", "park_phone"] %}
            {%- set digits = phone_digits("(" ~ payload ~ " ->> '" ~ name ~ "')") %}
            {{ end_of_phone(digits) if is_rough else "'phone:' || " ~ digits }},
            {%- endfor %}
            {{ "'license:' || " if not is_rough }}
            {{- normalize_license("(" ~ payload ~ " ->> 'driver_license')") }}
        ],
        null
    )
{%- endmacro %}
