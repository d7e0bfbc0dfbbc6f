{#-
    Day of a 'DD-MM-YYYY' text, or null when it is malformed or no day of the calendar.
    to_date() raises on 31-02-2025 and takes every view above it with it; pg_input_is_valid()
    exists only from PostgreSQL 16 on. The inner case runs only on text of the right shape.
-#}
{% macro parse_date_file(column) -%}
    {%- set first_of_month -%}
        make_date(right({{ column }}, 4)::int, substr({{ column }}, 4, 2)::int, 1)
    {%- endset -%}
    {%- set day -%}
        ({{ first_of_month }} + left({{ column }}, 2)::int - 1)
    {%- endset -%}
    case
        when {{ column }} ~ '^(0[1-9]|[12][0-9]|3[01])-(0[1-9]|1[0-2])-[0-9]{4}$'
            and right({{ column }}, 4) <> '0000'
            then case
                when extract(month from {{ day }}) = substr({{ column }}, 4, 2)::int
                    then {{ day }}
            end
    end
{%- endmacro %}
