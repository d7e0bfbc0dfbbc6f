-- Driver links that the run removed (a purge by hand) are put back, unless CT4 has linked the driver
-- again.
insert into canon.identity_links
select kept.*
from pg_temp.undone
inner join canon.driver_orphan_quarantine_ledger as entry
    on
        undone.driver_id = entry.driver_id
        and undone.revision = entry.revision
cross join lateral
    jsonb_populate_record(
        null::canon.identity_links, entry.evidence_json -> 'driver_link'
    ) as kept
where
    undone.refusal is null
    and entry.evidence_json @> '{"action": "resolve"}'
    and entry.evidence_json ? 'driver_link'
on conflict (source_table, source_pk) do nothing
