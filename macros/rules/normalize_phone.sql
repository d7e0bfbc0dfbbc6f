{#-
    Phone for comparison: digits only. A Peruvian mobile number (nine digits, the first a 9) is its
    last nine digits, with or without country code 51; fewer than eight digits is no phone, nor is
    a text of more than 100 characters.
    Three simple expressions rather than one that says it all, which takes four times as long: this
    runs for every event and driver. E'' because dbt may run in a session with
    standard_conforming_strings = off.
-#}
{% macro normalize_phone(column) -%}
    case
        when length({{ column }}) <= 100
            then
                nullif(
                    regexp_replace(
                        regexp_replace(
                            regexp_replace({{ column }}, '[^0-9]', '', 'g'),
                            '^(?:00)?51(9[0-9]{8})$',
                            E'\\1'
                        ),
                        '^[0-9]{0,7}$',
                        ''
                    ),
                    ''
                )
    end
{%- endmacro %}
