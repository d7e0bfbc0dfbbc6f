-- What a verification would look at, and is empty: it would not call that a success.
select
    'LATER' as severity,
    sources.relation as object,
    'has no ' || sources.what || ': the verification would look at nothing' as problem,
    'Check DB_NAME, and that CT4''s loads have run.' as remedy
from (
    select
        'canon.identity_links' as relation,
        'driver links' as what,
        exists (select 1 from canon.identity_links where source_table = 'drivers') as is_there
    union all
    select
        'canon.identity_links',
        'lead links',
        exists (
            select 1
            from canon.identity_links
            where source_table = any(%(lead_sources)s)
        )
    union all
    select
        'observational.lead_events',
        'rows',
        exists (select 1 from observational.lead_events)
    union all
    select
        'public.summary_daily',
        'rows',
        exists (select 1 from public.summary_daily)
) as sources
where not sources.is_there
