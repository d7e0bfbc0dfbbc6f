{#- A payload that names nothing: null, an array, a string or a number. -#}
{% macro is_no_object(payload) -%}
    jsonb_typeof({{ payload }}) is distinct from 'object'
{%- endmacro %}
