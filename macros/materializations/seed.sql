{#-
    Seeds are refilled by delete and insert, on --full-refresh too.

    dbt drops a seed with cascade on --full-refresh, and every view of this project with it. Its
    TRUNCATE is not safe either: a transaction with an older snapshot would see no lead sources at
    all, and with none every driver is an orphan. The lock makes two runs at once take turns, or
    both would insert. A seed whose columns changed cannot be refilled: the insert fails, and
    nothing is lost.
-#}
{% macro postgres__reset_csv_table(model, full_refresh, old_relation, agate_table) %}
    {% set delete_sql %}
        lock table {{ old_relation.render() }} in share row exclusive mode;
        delete from {{ old_relation.render() }}
    {% endset %}
    {% call statement('delete_seed_rows') %}
        {{ delete_sql }}
    {% endcall %}
    {{ return(delete_sql) }}
{% endmacro %}
