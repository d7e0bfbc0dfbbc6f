{#-
    Licence for comparison: upper case, then letters and digits only; nothing left is no licence.
    collate "C" keeps the result the same under every locale (a Turkish upper('i') is not 'I').
    Lower-case letters count too: the older system dropped them.
-#}
{% macro normalize_license(column) -%}
    nullif(regexp_replace(upper({{ column }} collate "C"), '[^A-Z0-9]', '', 'g'), '')
{%- endmacro %}
