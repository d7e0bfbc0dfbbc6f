{#- Personal data leaves the database masked: the last three characters, or nothing if it is short. -#}
{% macro mask(column) -%}
    case
        when length({{ column }}) >= 6
            then repeat('*', length({{ column }}) - 3) || right({{ column }}, 3)
        else repeat('*', length({{ column }}))
    end
{%- endmacro %}
