{#-
    The view materialization of the whole project: `create or replace view`.

    dbt-postgres rebuilds a view by rename and `drop ... cascade`, which takes the views that others
    built on it, and the grants given by hand, with it and exits 0. In place, both survive, and a
    renamed, retyped or removed column fails loudly.
-#}
{% materialization view, adapter='postgres' %}
    {%- set existing_relation = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type='view') -%}

    {%- if existing_relation is not none and not existing_relation.is_view -%}
        {{ exceptions.raise_compiler_error(
            existing_relation ~ " is a " ~ existing_relation.type ~ ", not a view. Nothing was "
            ~ "changed: rename it or drop it yourself if nobody needs it."
        ) }}
    {%- endif -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {#- `create or replace` forgets them: security_barrier decides who sees which rows. -#}
    {%- set options = run_query(
        "select array_to_string(reloptions, ', ') from pg_class"
        " where oid = to_regclass('" ~ target_relation.include(database=false) ~ "')"
        " and reloptions is not null"
    ) -%}

    {% call statement('main') -%}
        {{ get_replace_view_sql(target_relation, sql) }}
    {%- endcall %}

    {% for option in options.columns[0].values() %}
        {% do run_query("alter view " ~ target_relation ~ " set (" ~ option ~ ")") %}
    {% endfor %}

    {% do let_owner_read_parents(target_relation) %}

    {#- Grants are added, never revoked: those given by hand are not ours to take. -#}
    {% do apply_grants(target_relation, config.get('grants'), should_revoke=False) %}
    {% do persist_docs(target_relation, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}

{#-
    A view reads with its owner's rights. One that was there before keeps its owner when it is
    replaced: that role must be able to read what the view stands on now. One model at a time: two
    grants on one schema at once are "tuple concurrently updated".
-#}
{% macro let_owner_read_parents(relation) %}
    {%- set found = run_query(
        "select quote_ident(pg_get_userbyid(relowner)) from pg_class"
        " where oid = to_regclass('" ~ relation.include(database=false) ~ "')"
        " and relowner <> current_user::regrole"
    ) -%}
    {%- for owner in found.columns[0].values() -%}
        {%- do run_query("select pg_advisory_xact_lock(hashtext('ct4_orphans grants'))") -%}
        {%- for parent in model.depends_on.nodes if parent in graph.nodes -%}
            {%- set node = graph.nodes[parent] -%}
            {%- do run_query(
                "grant usage on schema " ~ node.schema ~ " to " ~ owner ~ "; "
                "grant select on " ~ node.schema ~ "." ~ node.alias ~ " to " ~ owner
            ) -%}
        {%- endfor -%}
    {%- endfor -%}
{% endmacro %}
