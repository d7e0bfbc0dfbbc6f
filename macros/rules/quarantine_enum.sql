{#-
    Type of a ledger column, quarantine_enum('status') or quarantine_enum('detected_reason'): an
    older deployment may have these two enums in another schema, or under another name, and views
    of others carry them. Before the migration: where the migration would make them.
-#}
{% macro quarantine_enum(column) -%}
    {%- set found = run_query(
        "select quote_ident(nspname) || '.' || quote_ident(typname) from pg_attribute"
        " inner join pg_type on pg_attribute.atttypid = pg_type.oid"
        " inner join pg_namespace on pg_type.typnamespace = pg_namespace.oid"
        " where attrelid = to_regclass('canon.driver_orphan_quarantine_ledger')"
        " and attname = '" ~ column ~ "'"
    ) if execute -%}
    {{- found.columns[0][0] if found and found.rows else 'public.orphan_' ~ column -}}
{%- endmacro %}
{#- The contracts name these enums where a new deployment has them: checked where they are here. -#}
{% macro postgres__get_empty_schema_sql(columns) %}
    {%- set here = {} -%}
    {%- for name, column in columns.items() -%}
        {%- set type = column['data_type'] -%}
        {%- if type in ['public.orphan_status', 'public.orphan_detected_reason'] -%}
            {%- set type = quarantine_enum(type.replace('public.orphan_', '')) -%}
        {%- endif -%}
        {%- do here.update({name: dict(column, data_type=type)}) -%}
    {%- endfor -%}
    {{ default__get_empty_schema_sql(here) }}
{% endmacro %}
