{#-
    First day after a window of days. Bounded on both sides: an absurd event date or rule would
    otherwise raise "date out of range", and take every payment with it.
-#}
{% macro window_end(first_day, days) -%}
    (
        case
            when {{ first_day }} > date '9999-12-31' then date '9999-12-31'
            else {{ first_day }}
        end + least({{ days }}, 1000000)
    )
{%- endmacro %}
