-- The next seal: over the entries since the one before, and over that one.
with previous as (
    select
        seal_no,
        digest,
        last_entry_id
    from canon.driver_orphan_quarantine_seals
    order by seal_no desc
    limit 1
),

facts as (
    select
        previous.digest as previous_digest,
        coalesce(previous.seal_no, 0) + 1 as seal_no,
        %(run_id)s::uuid as run_id,
        %(command)s::text as command,
        %(step)s::text as step,
        now() as sealed_at,
        session_user::text as sealed_by,
        %(parameters)s::jsonb as parameters,
        %(counts)s::jsonb as counts,
        coalesce(entries.last_entry_id, previous.last_entry_id, 0) as last_entry_id,
        entries.entries,
        ({protection}) as protection,
        entries.entries_digest
    from (values (true)) as one (row_exists)
    left join previous on one.row_exists
    cross join lateral (
        select
            count(*) as entries,
            max(entry.entry_id) as last_entry_id,
            encode(
                sha256(
                    string_agg(
                        sha256(convert_to({entry}, 'UTF8')), ''::bytea order by entry.entry_id
                    )
                ),
                'hex'
            ) as entries_digest
        from canon.driver_orphan_quarantine_ledger as entry
        where entry.entry_id > coalesce(previous.last_entry_id, '-9223372036854775808'::bigint)
    ) as entries
)

insert into canon.driver_orphan_quarantine_seals (
    seal_no,
    run_id,
    command,
    step,
    parameters,
    counts,
    last_entry_id,
    entries,
    protection,
    digest
)
select
    seal_no,
    run_id,
    command,
    step,
    parameters,
    counts,
    last_entry_id,
    entries,
    protection,
    encode(sha256(convert_to({seal}, 'UTF8')), 'hex')
from facts
returning seal_no, digest
