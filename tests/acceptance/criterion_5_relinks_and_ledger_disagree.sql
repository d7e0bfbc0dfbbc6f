-- Criterion 5, integrity: the links of a fix and its ledger entries were written
-- together. A link without an entry, or an entry without its links, means that someone
-- wrote or removed by hand. Of the entries only a driver's newest is asked for its
-- links: a driver that lost its lead and was found again has a newer one.
with links as (

    select
        person_key,
        source_table,
        source_pk,
        evidence ->> 'run_id' as run_id
    from {{ source('canon', 'identity_links') }}
    where
        match_rule = 'LEAD_EVENT_RECONSTRUCTION'
        and evidence ->> 'run_id' is not null

),

ledger as (

    select
        *,
        max(revision) over (partition by driver_id) as newest_revision
    from {{ source('canon', 'driver_orphan_quarantine_ledger') }}

),

entries as (

    select
        ledger.revision = ledger.newest_revision as is_newest,
        ledger.person_key,
        ledger.evidence_json ->> 'run_id' as run_id,
        lead_rows.source_table,
        lead_rows.source_pk
    from ledger
    cross join
        lateral
        jsonb_to_recordset(
            case
                when jsonb_typeof(ledger.evidence_json -> 'lead_rows') = 'array'
                    then ledger.evidence_json -> 'lead_rows'
            end
        ) as lead_rows (source_table text, source_pk text)
    -- Not ledger.run_id: an entry that went back to an older table and was adopted
    -- again has its run in the evidence only.
    where
        ledger.status = 'resolved_relinked'
        and ledger.evidence_json ->> 'run_id' is not null

)

select
    'link without a ledger entry' as disagreement,
    links.person_key,
    links.source_table,
    links.source_pk
from links
where
    not exists (
        select 1
        from entries
        where
            entries.run_id = links.run_id
            and entries.person_key = links.person_key
            and entries.source_table = links.source_table
            and entries.source_pk = links.source_pk
    )

union all

select distinct
    'ledger entry without its link' as disagreement,
    entries.person_key,
    entries.source_table,
    entries.source_pk
from entries
where
    entries.is_newest
    and not exists (
        select 1
        from {{ source('canon', 'identity_links') }} as identity_links
        where
            identity_links.source_table = entries.source_table
            and identity_links.source_pk = entries.source_pk
    )
