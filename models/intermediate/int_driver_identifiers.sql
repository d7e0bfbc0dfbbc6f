with driver_links as (

    select * from {{ ref('int_driver_links') }}

),

drivers_index as (

    select * from {{ ref('stg_canon__drivers_index') }}

),

drivers as (

    select * from {{ ref('stg_public__drivers') }}

),

registry as (

    select * from {{ ref('stg_canon__identity_registry') }}

),

normalized as (

    select
        driver_links.driver_id,
        driver_links.person_key,
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
        ) as phone
    from driver_links
    left join drivers_index on driver_links.driver_id = drivers_index.driver_id
    left join drivers on driver_links.driver_id = drivers.driver_id
    left join registry on driver_links.person_key = registry.person_key

),

final as (

    select
        normalized.driver_id,
        normalized.person_key,
        identifiers.kind,
        identifiers.value,
        identifiers.evidence_level
    from normalized
    cross join lateral (
        values
        ('driver_id', normalized.driver_id::text, 1),
        ('license', normalized.license, 2),
        ('phone', normalized.phone, 2)
    ) as identifiers (kind, value, evidence_level)
    where identifiers.value is not null

)

select * from final
