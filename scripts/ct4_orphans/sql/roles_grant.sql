-- What each role may do; the README has the same as a table. Can be run again.
-- reader: everything that a report shows. Not the columns with personal data.
grant usage on schema canon, ops, ct4_orphans to {reader};
grant select on
    canon.driver_orphan_quarantine,
    canon.driver_orphan_quarantine_ledger,
    canon.driver_orphan_quarantine_seals,
    canon.driver_orphan_quarantine_runs,
    ops.v_cabinet_funnel_status,
    ops.v_payment_calculation,
    ops.v_ct4_eligible_drivers,
    ops.v_orphan_fix_plan,
    ct4_orphans.lead_sources,
    ct4_orphans.evidence_strategies,
    ct4_orphans.int_driver_links,
    ct4_orphans.int_lead_links,
    ct4_orphans.int_orphan_drivers,
    ct4_orphans.int_excluded_drivers,
    ct4_orphans.int_all_orphan_verdicts,
    ct4_orphans.int_quarantine_state,
    ct4_orphans.int_masked_orphans
    to {reader};
grant select (source_table, match_rule) on ct4_orphans.stg_canon__identity_links to {reader};
grant select (
    driver_id,
    person_key,
    detected_at,
    detected_reason,
    creation_rule,
    evidence_json,
    status,
    resolved_at,
    resolution_notes,
    confidence_level,
    driver_links_count,
    lead_events_count,
    last_updated_at
) on ops.v_driver_orphans to {reader};

-- fixer: appends to the ledger and to the links. Who wrote an entry, and when, it cannot choose.
grant {reader} to {fixer};
grant insert (
    driver_id,
    revision,
    person_key,
    detected_at,
    detected_reason,
    creation_rule,
    evidence_json,
    status,
    resolved_at,
    resolution_notes,
    run_id,
    is_withdrawn,
    undoes_run_id,
    removed_links
) on canon.driver_orphan_quarantine_ledger to {fixer};
grant insert (
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
) on canon.driver_orphan_quarantine_seals to {fixer};
grant execute on function canon.driver_orphan_quarantine_wait_for_writers() to {fixer};
grant select, insert, delete on canon.identity_links to {fixer};
grant usage on sequence {link_ids} to {fixer};
grant select (event_id, person_key) on ct4_orphans.stg_observational__lead_events to {fixer};

-- migrator: owns what this project makes, so it deploys, and rolls back.
grant {fixer} to {migrator};
grant usage on schema observational, public to {migrator};
grant usage, create on schema canon, ops to {migrator};
grant create on database {database} to {migrator};
grant select on {sources} to {migrator};
