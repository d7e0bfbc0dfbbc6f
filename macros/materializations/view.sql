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

    {% call statement('main') -%}
        {{ get_replace_view_sql(target_relation, sql) }}
    {%- endcall %}

    {#- Grants are added, never revoked: those given by hand are not ours to take. -#}
    {% do apply_grants(target_relation, config.get('grants'), should_revoke=False) %}
    {% do persist_docs(target_relation, model) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
