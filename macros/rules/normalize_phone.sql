{#-
    Phone for comparison: digits only. A Peruvian mobile number (nine digits, the first a 9) is its
    last nine digits, with or without country code 51; fewer than eight digits is no phone, nor is
    a text of more than 100 characters.
    The inner translate() leaves what is no digit, the outer one takes that away: it reads oddly,
    but is twice as fast as a regular expression, and this runs for every event and driver. It is
    quadratic, though: one text of a megabyte would take an hour, hence the 100. E'' because dbt may
    run in a session with standard_conforming_strings = off.
-#}
{% macro normalize_phone(column) -%}
    case
        when length({{ column }}) <= 100
            then
                nullif(
                    regexp_replace(
                        translate(
                            {{ column }}, translate({{ column }}, '0123456789', ''), ''
                        ),
                        '^(?:(?:00)?51)?(9[0-9]{8})$|^[0-9]{0,7}$',
                        E'\\1'
                    ),
                    ''
                )
    end
{%- endmacro %}
