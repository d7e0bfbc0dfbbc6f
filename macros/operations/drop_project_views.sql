{#-
    dbt run-operation drop_project_views

    Takes this project's views out, before `alembic downgrade`: all violations first (those of tests
    that are switched off too), then the models from the top down, never with cascade. If a view of someone else's reads one of ours, PostgreSQL
    names it, and nothing is dropped at all: it is one transaction. Seeds and snapshots stay.
-#}
{% macro drop_project_views() %}
    {% set relations = [] %}
    {% set audit = 'ct4_orphans_audit' %}
    {% set stored = run_query("select viewname from pg_views where schemaname = '" ~ audit ~ "'") %}
    {% for name in stored.columns[0].values() %}
        {% do relations.append(api.Relation.create(target.database, audit, name)) %}
    {% endfor %}
    {#- The graph lists models in no promised order: a model goes once all that read it are gone. -#}
    {% set models = [] %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' %}
        {% do models.append(node) %}
    {% endfor %}
    {% set gone = [] %}
    {% for _ in models %}
        {% for node in models if node.unique_id not in gone %}
            {% set readers = [] %}
            {% for other in models
                if other.unique_id not in gone and node.unique_id in other.depends_on.nodes %}
                {% do readers.append(other) %}
            {% endfor %}
            {% if not readers %}
                {% do gone.append(node.unique_id) %}
                {% do relations.append(
                    api.Relation.create(node.database, node.schema, node.alias)
                ) %}
            {% endif %}
        {% endfor %}
    {% endfor %}
    {% set statements = [] %}
    {% for relation in relations %}
        {% do statements.append("drop view if exists " ~ relation ~ ";") %}
    {% endfor %}
    {% do run_query("begin; " ~ statements | join(" ") ~ " commit;") %}
    {% do log("Dropped " ~ models | length ~ " views of this project and the stored violations "
        ~ "from " ~ target.dbname ~ ".", info=True) %}
{% endmacro %}
