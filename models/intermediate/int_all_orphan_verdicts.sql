-- The steps of the plan in one statement: each is computed once, however many of the
-- others look at it. (Not ephemeral models, which would say the same: with several
-- threads dbt now and then puts their CTEs in the wrong order.)
with orphans as (

    select * from {{ ref('int_orphan_drivers') }}

),

orphan_identifiers as (

    {{ driver_identifiers('orphans') }}

),

matches as (

    {{ lead_event_matches('orphan_identifiers') }}

),

claims as (

    {{ lead_event_claims('matches', 'orphan_identifiers') }}

),

evidence as (

    {{ person_evidence('claims', 'orphans', 'orphan_identifiers') }}

),

final as (

    {{ orphan_verdicts('orphans', 'evidence') }}

)

select * from final
