-- Everything of the guard but what it has recorded.
drop trigger if exists ct4_orphans_guard_insert on canon.identity_links;
drop trigger if exists ct4_orphans_guard_update on canon.identity_links;
drop trigger if exists ct4_orphans_guard_delete on canon.identity_links;
drop trigger if exists ct4_orphans_guard_entries on canon.driver_orphan_quarantine_ledger;
drop index if exists canon.ct4_orphans_guard_person_key;
drop table if exists canon.ct4_orphans_guard_pending;
drop function if exists canon.ct4_orphans_guard_check();
drop function if exists canon.ct4_orphans_guard_judge(uuid[], text[], text[]);
drop function if exists canon.ct4_orphans_guard_collect_entries();
drop function if exists canon.ct4_orphans_guard_collect_links();
drop function if exists canon.ct4_orphans_guard_settings();
drop table if exists canon.ct4_orphans_guard;
drop table if exists canon.ct4_orphans_guard_persons;
drop table if exists canon.ct4_orphans_guard_drivers;
