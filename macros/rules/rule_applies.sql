{#- Whether a payment rule applies to a conversion: its origin, and valid on the lead date. -#}
{% macro rule_applies(conversions, rules) -%}
    {{ conversions }}.origin_tag = {{ rules }}.origin_tag
    and {{ conversions }}.lead_date >= {{ rules }}.valid_from
    and (
        {{ rules }}.valid_to is null
        or {{ conversions }}.lead_date <= {{ rules }}.valid_to
    )
{%- endmacro %}
