{#-
    What identifies a driver: the id, and driver_contacts(). One row per driver and kind; a missing
    one has none. `drivers` is a CTE with driver_id and person_key.

    The unnest() are in the select list, not joined: so they take part in a parallel scan.
-#}
{% macro driver_identifiers(drivers) %}
    select
        driver_id,
        person_key,
        kind,
        value,
        evidence_level
    from (
        select
            contacts.driver_id,
            contacts.person_key,
            unnest(array['driver_id', 'license', 'phone']) as kind,
            unnest(array[contacts.driver_id::text, contacts.license, contacts.phone]) as value,
            unnest(array[1, 2, 2]) as evidence_level
        from ({{ driver_contacts(drivers) }}) as contacts
    ) as identifiers
    where value is not null
{% endmacro %}
