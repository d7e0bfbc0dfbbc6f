{#-
    Licence and phone of drivers, normalised: from drivers_index, else public.drivers, else
    identity_registry. One row per driver of `drivers`, a CTE with driver_id and person_key.

    A macro rather than one view for all, because most questions are about a few thousand orphans:
    those are picked before anything is normalised.
-#}
{% macro driver_contacts(drivers) %}
    select
        linked.driver_id,
        linked.person_key,
        coalesce(
            {{ normalize_license('drivers_index.license') }},
            {{ normalize_license('drivers.license_normalized_number') }},
            {{ normalize_license('drivers.license_number') }},
            {{ normalize_license('registry.primary_license') }}
        ) as license,
        coalesce(
            {{ normalize_phone('drivers_index.phone') }},
            {{ normalize_phone('drivers.phone') }},
            {{ normalize_phone('registry.primary_phone') }}
        ) collate "C" as phone
    from {{ drivers }} as linked
    left join {{ ref('stg_canon__drivers_index') }} as drivers_index
        on linked.driver_id = drivers_index.driver_id
    left join {{ ref('stg_public__drivers') }} as drivers
        on linked.driver_id = drivers.driver_id
    left join {{ ref('stg_canon__identity_registry') }} as registry
        on linked.person_key = registry.person_key
{% endmacro %}
