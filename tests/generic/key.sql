{#- The columns are the model's grain: never null, never twice. One pass instead of two tests. -#}
{% test key(model, columns) %}

select
    {{ columns | join(', ') }},
    count(*) as rows_found
from {{ model }}
group by {{ columns | join(', ') }}
having
    count(*) > 1
    {%- for column in columns %}
    or {{ column }} is null
    {%- endfor %}

{% endtest %}
