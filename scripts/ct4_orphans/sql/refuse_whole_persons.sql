-- A relink repairs a person: all its drivers are as reviewed, or none of them is touched.
update pg_temp.planned
set
    outcome = 'refused',
    error = 'another driver of its person is not as reviewed'
where
    outcome is null
    and action = 'relink'
    and person_key in (
        select others.person_key
        from pg_temp.planned as others
        where others.outcome in ('refused', 'not reviewed')
    )
