-- A verification that looked at nothing is no verification: no driver links, no leads,
-- no events or no lead sources most likely means the wrong database, or a load that has
-- not run.
with sources as (

    select
        'driver links' as what,
        exists(select 1 from {{ ref('int_driver_links') }}) as is_there

    union all

    select
        'lead links' as what,
        exists(select 1 from {{ ref('int_lead_links') }}) as is_there

    union all

    select
        'lead events' as what,
        exists(select 1 from {{ ref('stg_observational__lead_events') }}) as is_there

    union all

    select
        'daily summaries' as what,
        exists(select 1 from {{ ref('stg_public__summary_daily') }}) as is_there

    union all

    select
        'lead sources' as what,
        (
            select count(*) = 3
            from {{ ref('lead_sources') }}
            where
                source_table in (
                    'module_ct_cabinet_leads',
                    'module_ct_scouting_daily',
                    'module_ct_migrations'
                )
        ) as is_there

)

select what
from sources
where not is_there
