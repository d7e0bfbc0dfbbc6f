-- Whatever of them is there already, perhaps disabled, is made anew. ALWAYS: they hold under
-- session_replication_role = replica too.
drop trigger if exists ct4_orphans_guard_insert on canon.identity_links;
drop trigger if exists ct4_orphans_guard_update on canon.identity_links;
drop trigger if exists ct4_orphans_guard_delete on canon.identity_links;
drop trigger if exists ct4_orphans_guard_entries on canon.driver_orphan_quarantine_ledger;
drop trigger if exists ct4_orphans_guard_check on canon.ct4_orphans_guard_pending;

create trigger ct4_orphans_guard_insert
after insert on canon.identity_links
referencing new table as after_rows
for each statement execute function canon.ct4_orphans_guard_collect_links();

create trigger ct4_orphans_guard_update
after update on canon.identity_links
referencing old table as before_rows new table as after_rows
for each statement execute function canon.ct4_orphans_guard_collect_links();

create trigger ct4_orphans_guard_delete
after delete on canon.identity_links
referencing old table as before_rows
for each statement execute function canon.ct4_orphans_guard_collect_links();

create trigger ct4_orphans_guard_entries
after insert on canon.driver_orphan_quarantine_ledger
referencing new table as after_rows
for each statement execute function canon.ct4_orphans_guard_collect_entries();

-- Deferred: the driver may be linked before the lead, and a lead moved by delete and insert.
create constraint trigger ct4_orphans_guard_check
after insert on canon.ct4_orphans_guard_pending
deferrable initially deferred
for each row execute function canon.ct4_orphans_guard_check();

alter table canon.identity_links enable always trigger ct4_orphans_guard_insert;
alter table canon.identity_links enable always trigger ct4_orphans_guard_update;
alter table canon.identity_links enable always trigger ct4_orphans_guard_delete;
alter table canon.driver_orphan_quarantine_ledger
enable always trigger ct4_orphans_guard_entries;
alter table canon.ct4_orphans_guard_pending enable always trigger ct4_orphans_guard_check;
