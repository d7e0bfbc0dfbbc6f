-- Every seal, computed again from the entries and from the digest that the seal before has.
with seals as (
    select
        *,
        lag(seal_no, 1, 0::bigint) over (order by seal_no) as previous_seal_no,
        -- Before the first: nothing has a lower number, not even one put in by hand.
        lag(last_entry_id, 1, '-9223372036854775808'::bigint) over (order by seal_no)
            as previous_last_entry_id,
        lag(digest) over (order by seal_no) as previous_digest,
        lag(protection) over (order by seal_no) as previous_protection
    from canon.driver_orphan_quarantine_seals
),

facts as (
    select
        seals.*,
        found.entries as entries_found,
        found.entries_digest
    from seals
    cross join lateral (
        select
            count(*) as entries,
            encode(
                sha256(
                    string_agg(
                        sha256(convert_to({entry}, 'UTF8')), ''::bytea order by entry.entry_id
                    )
                ),
                'hex'
            ) as entries_digest
        from canon.driver_orphan_quarantine_ledger as entry
        where
            entry.entry_id > seals.previous_last_entry_id
            and entry.entry_id <= seals.last_entry_id
    ) as found
)

select
    seal_no,
    previous_seal_no,
    run_id,
    command,
    step,
    to_char(sealed_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') as sealed_at,
    sealed_by,
    entries,
    entries_found,
    digest,
    digest is not distinct from encode(sha256(convert_to({seal}, 'UTF8')), 'hex') as is_intact,
    case
        when previous_protection is distinct from protection and previous_protection is not null
            then
                (
                    select jsonb_agg(lines.line order by lines.line)
                    from (
                        select 'gone: ' || gone.line as line
                        from jsonb_array_elements_text(previous_protection) as gone (line)
                        where not protection @> to_jsonb(gone.line)
                        union all
                        select 'new: ' || added.line
                        from jsonb_array_elements_text(protection) as added (line)
                        where not previous_protection @> to_jsonb(added.line)
                    ) as lines
                )
    end as protection_changes
from facts
order by seal_no
