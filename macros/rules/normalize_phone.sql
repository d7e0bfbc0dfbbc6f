{#-
    Phone for comparison: digits only. A Peruvian mobile number (nine digits, the first a 9) is its
    last nine digits, with or without country code 51; fewer than eight digits is no phone.
-#}
{% macro normalize_phone(column) -%}
    {%- set digits -%}
        regexp_replace({{ column }} collate "C", '[^0-9]', '', 'g')
    {%- endset -%}
    coalesce(
        substring({{ digits }} from '^(?:(?:00)?51)?(9[0-9]{8})$'),
        substring({{ digits }} from '^[0-9]{8,}$')
    )
{%- endmacro %}
