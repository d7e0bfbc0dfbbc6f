{#-
    dbt run-operation drop_project_views

    Takes this project's views out, before `alembic downgrade`: the violations, the models, and what
    an earlier version has left in their schemas. One statement, never with cascade: they may read
    each other in any order, and if a view of someone else's reads one of ours, PostgreSQL names it
    and nothing is dropped at all. Seeds and snapshots stay.
-#}
{% macro drop_project_views() %}
    {% set own_schema = 'ct4_orphans' %}
    {% set relations = [] %}
    {% for schema in [own_schema, own_schema ~ '_audit'] %}
        {% set found = run_query("select viewname from pg_views where schemaname = '" ~ schema ~ "'") %}
        {% for name in found.columns[0].values() %}
            {% do relations.append(api.Relation.create(target.database, schema, name)) %}
        {% endfor %}
    {% endfor %}
    {% for node in graph.nodes.values()
        if node.resource_type == 'model' and node.schema != own_schema %}
        {% do relations.append(api.Relation.create(node.database, node.schema, node.alias)) %}
    {% endfor %}
    {% do run_query("begin; drop view if exists " ~ relations | join(", ") ~ "; commit;") %}
    {% do log("Dropped the views of this project and the stored violations from " ~ target.dbname
        ~ ".", info=True) %}
{% endmacro %}
