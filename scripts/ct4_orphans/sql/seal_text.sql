-- A seal as text, without its own digest: with that of the seal before, and that of its entries.
row(
    facts.previous_digest,
    facts.seal_no,
    facts.run_id,
    facts.command,
    facts.step,
    to_jsonb(facts.sealed_at at time zone 'UTC'),
    facts.sealed_by,
    facts.parameters,
    facts.counts,
    facts.last_entry_id,
    facts.entries,
    facts.protection,
    facts.entries_digest
)::text
