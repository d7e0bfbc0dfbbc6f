{#-
    dbt compile --inline '{{ skipped_rows() }}'

    Rows of CT4's tables that no rule can use, one count per reason, straight from the sources:
    `orphans doctor` asks before any view of this project exists.
-#}
{% macro skipped_rows() %}
    select
        'public.summary_daily' as relation,
        'no driver_id, or a date_file that is no day' as reason,
        coalesce(sum(rows_found), 0)::bigint as rows_found
    from (
        select
            driver_id is null as has_no_driver,
            date_file,
            count(*) as rows_found
        from {{ source('public', 'summary_daily') }}
        group by driver_id is null, date_file
    ) as summaries
    where has_no_driver or ({{ parse_date_file('date_file') }}) is null

    union all

    select
        'observational.lead_events',
        'a payload that is no object',
        count(*)
    from {{ source('observational', 'lead_events') }}
    where {{ is_no_object('payload_json') }}

    union all

    select
        'ops.scout_payment_rules',
        'a milestone_type that is neither trips nor connection',
        count(*)
    from {{ source('ops', 'scout_payment_rules') }} as rules
    where
        is_active
        and to_jsonb(rules) ->> 'milestone_type' not in ('trips', 'connection')

    union all

    select
        'ops.scout_payment_rules',
        'a milestone_value that is not milestone_trips, which decides',
        count(*)
    from {{ source('ops', 'scout_payment_rules') }} as rules
    where
        is_active
        and coalesce(to_jsonb(rules) ->> 'milestone_type', 'trips') = 'trips'
        and to_jsonb(rules) ->> 'milestone_value' <> milestone_trips::text
{% endmacro %}
