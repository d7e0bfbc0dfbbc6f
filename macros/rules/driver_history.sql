{#-
    What int_driver_history says, looked up in its sorted arrays: one search of a row instead of a join
    of millions of days. `history` is the name of a relation that has its columns.
-#}

{#- Number of the driver's rows up to and including a day. -#}
{% macro rows_until(history, day) -%}
    width_bucket({{ day }}, {{ history }}.days)
{%- endmacro %}

{#- The day before; bounded, like window_end, since dates can be absurd. -#}
{% macro day_before(day) -%}
    (
        case
            when {{ day }} < date '0001-01-01' then date '0001-01-01'
            else {{ day }}
        end - 1
    )
{%- endmacro %}

{#- Trips up to and including a day. -#}
{% macro trips_until(history, day) -%}
    coalesce({{ history }}.trips_so_far[{{ rows_until(history, day) }}], 0)
{%- endmacro %}

{#- Trips in [first_day, first_day + days). -#}
{% macro trips_within(history, first_day, days) -%}
    (
        {{ trips_until(history, '(' ~ window_end(first_day, days) ~ ' - 1)') }}
        - {{ trips_until(history, day_before(first_day)) }}
    )
{%- endmacro %}

{#- First day with work time on or after a day. -#}
{% macro first_connection(history, first_day) -%}
    {{ history }}.connected_days[
        width_bucket({{ day_before(first_day) }}, {{ history }}.connected_days) + 1
    ]
{%- endmacro %}

{#-
    Number of the row, after the first `rows_before`, with which the driver's trips so far reach
    `trips`; past the end, or null, if they never do. Sums of trips only grow, so a search finds it,
    unless trips were taken back: then the first row counts, even if the driver fell below again.
-#}
{% macro row_reaching(history, trips, rows_before) -%}
    case
        when {{ history }}.has_trips_taken_back
            then (
                select min(reached.row_no)
                from
                    unnest({{ history }}.trips_so_far)
                    with ordinality as reached (trips_so_far, row_no)
                where
                    reached.row_no > {{ rows_before }}
                    and reached.trips_so_far >= {{ trips }}
            )
        else width_bucket(({{ trips }} - 1)::bigint, {{ history }}.trips_so_far) + 1
    end
{%- endmacro %}
