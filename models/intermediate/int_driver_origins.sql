with conversion_rules as (

    select * from {{ ref('int_conversion_rules') }}

),

-- cabinet before fleet_migration before any other tag; unknown says least, so it comes
-- last.
final as (

    select distinct on (driver_id)
        driver_id,
        origin_tag
    from conversion_rules
    order by
        driver_id,
        case origin_tag
            when 'cabinet' then 1
            when 'fleet_migration' then 2
            when 'unknown' then 4
            else 3
        end,
        origin_tag collate "C"

)

select * from final
