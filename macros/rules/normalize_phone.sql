{#-
    Phone for comparison: digits only. A Peruvian mobile number (nine digits, the first a 9) is its
    last nine digits, with or without country code 51; fewer than eight digits is no phone, nor is
    a text of more than 100 characters.

    In parts, because finding the digits is what costs, and they are looked at several times:
    int_lead_source_identifiers finds them once.
-#}
{% macro normalize_phone(column) -%}
    {%- set digits = phone_digits(column) -%}
    case when {{ is_phone(digits) }} then {{ phone_of_digits(digits) }} end
{%- endmacro %}

{% macro phone_digits(column) -%}
    case when length({{ column }}) <= 100 then regexp_replace({{ column }}, '[^0-9]', '', 'g') end
{%- endmacro %}

{% macro is_phone(digits) -%}
    length({{ digits }}) >= 8
{%- endmacro %}

{% macro phone_of_digits(digits) -%}
    case
        when {{ digits }} like '519________' or {{ digits }} like '00519________'
            then right({{ digits }}, 9)
        else {{ digits }}
    end
{%- endmacro %}

{#- What equal phones have in common, with or without their country code: for a search. -#}
{% macro end_of_phone(digits) -%}
    right({{ digits }}, 9)
{%- endmacro %}
