{#- accepted_values lets null pass, and a not_null beside it reads a costly view a second time. -#}
{% test one_of(model, column_name, values) %}

select {{ column_name }} as unexpected_value
from {{ model }}
where
    {{ column_name }} is null
    or {{ column_name }} not in ('{{ values | join("', '") }}')

{% endtest %}
