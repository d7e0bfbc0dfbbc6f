-- What the guard keeps. Nobody but its functions reads or writes these.
create table if not exists canon.ct4_orphans_guard (
    is_only_row boolean primary key default true check (is_only_row),
    mode text not null check (mode in ('warn', 'enforce')),
    lead_sources text[] not null,
    since timestamptz not null default now(),
    set_by text not null default session_user
);

comment on table canon.ct4_orphans_guard is
'The guard of ct4-orphans: one row. Change it with: orphans guard install.';

-- What a transaction has written that could break the rule, until its check at commit. No row of
-- it is ever committed, so it needs no WAL.
create unlogged table if not exists canon.ct4_orphans_guard_pending (
    txid xid8 not null default pg_current_xact_id(),
    persons uuid[],
    drivers text[]
);

create index if not exists ix_ct4_orphans_guard_pending_txid
on canon.ct4_orphans_guard_pending (txid);

-- Where two transactions meet that could break the rule together: each writes the rows of its
-- persons and drivers. A row is never deleted: an older snapshot could then miss it.
create table if not exists canon.ct4_orphans_guard_persons (
    person_key uuid primary key,
    touched xid8 not null
)
with (fillfactor = 50); -- touching a row again must not grow the index

create table if not exists canon.ct4_orphans_guard_drivers (
    driver_id text collate "C" primary key,
    touched xid8 not null
)
with (fillfactor = 50);

create table if not exists canon.ct4_orphans_guard_violations (
    violation_id bigint generated always as identity primary key,
    detected_at timestamptz not null default now(),
    driver_id text,
    person_key uuid,
    txid xid8 not null default pg_current_xact_id(),
    session_user_name text not null default session_user,
    application_name text not null default current_setting('application_name'),
    not_judged text
);

comment on table canon.ct4_orphans_guard_violations is
'Recorded by the guard of ct4-orphans in mode warn: a driver that operated without a lead when a '
'transaction committed. not_judged: the error code that kept the guard from judging it.';
