-- Lead links of an earlier fix, while the ledger that knows why is gone.
select
    'LATER' as severity,
    'canon.identity_links' as object,
    'links of an earlier fix, whose ledger is gone: ' || count(*) as problem,
    'Restore the ledger after the migration, before a fix: README, Getting out.' as remedy
from canon.identity_links
where
    match_rule = 'LEAD_EVENT_RECONSTRUCTION'
    and evidence ->> 'run_id' is not null
having count(*) > 0
