-- A CT4 database on which the older deployment of the orphans system has been running for a year:
-- its quarantine table (updated in place), its versions of the four views, views of other teams on
-- top of them and on the table, roles and grants. To be run once, by a superuser, on a database
-- that has CT4's schema. Driver 7 is '07' sixteen times, person 7 ends in 07.

-- --- Roles: of the whole server, and several databases are made at once -------------------------

do $$
declare
    role_name text;
begin
    foreach role_name in array
        array['older_owner', 'older_reader', 'older_writer', 'older_clerk']
    loop
        begin
            execute format('create role %I login', role_name);
        exception
            when duplicate_object or unique_violation then null;
        end;
    end loop;
end $$;

create schema reporting authorization older_reader;
grant usage on schema canon, observational, ops, reporting
to older_owner, older_reader, older_writer, older_clerk;
grant create on schema canon, ops to older_owner;
grant select on all tables in schema canon, observational, ops, public to older_owner;

-- CT4's migrations, of which the older deployment was one. Nobody's business but CT4's.
create table public.alembic_version (version_num varchar(32) primary key);
insert into public.alembic_version values ('014_driver_orphan_quarantine');

-- --- CT4's data ---------------------------------------------------------------------------------

create function pg_temp.driver(n int) returns varchar
language sql immutable as $$ select repeat(lpad(n::text, 2, '0'), 16)::varchar $$;
create function pg_temp.person(n int) returns uuid
language sql immutable as $$ select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;

insert into canon.identity_registry (
    person_key, created_at, updated_at, confidence_level, primary_phone, primary_license,
    primary_full_name
)
select
    pg_temp.person(n),
    '2025-01-01 00:00:00+00',
    '2025-01-02 00:00:00+00',
    (case when n % 3 = 0 then 'MEDIUM' else 'HIGH' end)::public.confidencelevel,
    '+519870000' || lpad(n::text, 2, '0'),
    'Q' || lpad(n::text, 8, '0'),
    'Person ' || n
from generate_series(1, 17) as n
where n not in (14, 15); -- driver 14 is person 13's second; person 15 was deleted

insert into public.drivers (
    driver_id, park_id, full_name, phone, license_number, license_normalized_number, hire_date
)
select
    pg_temp.driver(n),
    'park-1',
    'Driver ' || n,
    '+519870000' || lpad(n::text, 2, '0'),
    'Q' || lpad(n::text, 8, '0'),
    'Q' || lpad(n::text, 8, '0'),
    '2025-01-05'
from generate_series(1, 17) as n;

insert into canon.drivers_index (driver_id, park_id, phone_norm, license_norm, hire_date, snapshot_date)
select driver_id, park_id, substr(phone, 2), license_normalized_number, hire_date, '2025-01-05'
from public.drivers;

-- Driver links. None: 9 (purged, link removed), 15 (person deleted).
insert into canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level,
    linked_at
)
select
    pg_temp.person(case n when 14 then 13 else n end),
    'drivers',
    pg_temp.driver(n),
    '2025-01-05 00:00:00+00',
    case when n % 2 = 0 then 'LEGACY_BACKFILL' else 'PHONE_EXACT' end,
    90,
    (case when n % 3 = 0 then 'MEDIUM' else 'HIGH' end)::public.confidencelevel,
    '2025-01-05 12:00:00+00'::timestamptz + n * interval '1 minute'
from generate_series(1, 17) as n
where n not in (9, 15);

insert into public.module_ct_cabinet_leads (
    external_id, lead_created_at, first_name, last_name, park_phone
)
select 'cab-' || n, '2025-02-01 00:00:00+00', 'Person', n::text, '+519870000' || lpad(n::text, 2, '0')
from unnest(array[1, 5, 8, 13]) as n;
insert into public.module_ct_scouting_daily (
    registration_date, scout_id, driver_name, driver_phone, driver_license, acquisition_method
)
values ('2025-02-01', 7, 'Driver 3', '987000003', 'Q00000003', 'street');
insert into public.module_ct_migrations (driver_id, driver_name, scout_name, hire_date)
select pg_temp.driver(n), 'Driver ' || n, 'Scout', '2025-01-05'
from unnest(array[2, 6, 11, 17]) as n;

-- Lead links. Without any: 4, 7, 10, 11, 12, 16.
insert into canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level,
    evidence, linked_at
)
values
(pg_temp.person(1), 'module_ct_cabinet_leads', 'cab-1', '2025-02-01', 'PHONE_EXACT', 95, 'HIGH', null, '2025-02-01'),
(pg_temp.person(2), 'module_ct_migrations', 'mig-2', '2025-02-01', 'DRIVER_ID', 100, 'HIGH', null, '2025-02-01'),
(pg_temp.person(3), 'module_ct_scouting_daily', 'sco-3', '2025-02-01', 'LICENSE_EXACT', 95, 'HIGH', null, '2025-02-01'),
(pg_temp.person(17), 'module_ct_migrations', 'mig-17', '2025-02-01', 'DRIVER_ID', 100, 'HIGH', null, '2025-02-01'),
(pg_temp.person(5), 'module_ct_cabinet_leads', 'cab-5', '2025-06-01', 'PHONE_EXACT', 95, 'HIGH', null, '2025-06-01'),
(pg_temp.person(8), 'module_ct_cabinet_leads', 'cab-8', '2025-05-01', 'PHONE_EXACT', 95, 'HIGH', null, '2025-05-01'),
(
    pg_temp.person(6), 'module_ct_migrations', 'mig-6', '2025-02-01', 'LEAD_EVENT_RECONSTRUCTION', 100,
    'HIGH', '{"lead_event_id": 6, "strategy": "driver_id"}', '2025-03-11'
),
(
    pg_temp.person(13), 'module_ct_cabinet_leads', 'cab-13', '2025-02-01', 'LEAD_EVENT_RECONSTRUCTION',
    80, 'MEDIUM', '{"lead_event_id": 13, "strategy": "phone_exact"}', '2025-03-11'
);

-- The older deployment never set person_key in the events that it relinked.
insert into observational.lead_events (
    source_table, source_pk, event_date, person_key, scout_id, payload_json, created_at
)
values
('module_ct_cabinet_leads', 'cab-1', '2025-02-01', pg_temp.person(1), null, '{"external_id": "cab-1", "park_phone": "987000001"}', '2025-02-01'),
('module_ct_migrations', 'mig-2', '2025-02-01', pg_temp.person(2), 7, jsonb_build_object('driver_id', pg_temp.driver(2), 'origin_tag', 'fleet_migration'), '2025-02-01'),
('module_ct_scouting_daily', 'sco-3', '2025-02-01', pg_temp.person(3), 7, '{"driver_phone": "987000003", "driver_license": "Q00000003"}', '2025-02-01'),
('module_ct_migrations', 'mig-17', '2025-02-01', pg_temp.person(17), 7, jsonb_build_object('driver_id', pg_temp.driver(17), 'origin_tag', 'fleet_migration'), '2025-02-01'),
('module_ct_cabinet_leads', 'cab-5', '2025-06-01', pg_temp.person(5), null, '{"external_id": "cab-5", "park_phone": "987000005"}', '2025-06-01'),
('module_ct_cabinet_leads', 'cab-8', '2025-05-01', pg_temp.person(8), null, '{"external_id": "cab-8", "park_phone": "987000008"}', '2025-05-01'),
('module_ct_migrations', 'mig-6', '2025-02-01', null, 7, jsonb_build_object('driver_id', pg_temp.driver(6), 'origin_tag', 'fleet_migration'), '2025-02-01'),
('module_ct_cabinet_leads', 'cab-13', '2025-02-01', null, null, '{"external_id": "cab-13", "park_phone": "987000013"}', '2025-02-01'),
('module_ct_migrations', 'mig-11', '2025-08-01', null, 7, jsonb_build_object('driver_id', pg_temp.driver(11), 'origin_tag', 'fleet_migration'), '2025-08-01'),
-- Names nobody, but is person 16's: weak.
('module_ct_cabinet_leads', 'cab-16', '2025-02-01', pg_temp.person(16), null, '{"external_id": "cab-16"}', '2025-02-01'),
('module_ct_scouting_daily', 'sco-0', '2025-02-02', null, 7, null, '2025-02-02');

insert into public.summary_daily (
    driver_id, date_file, count_orders_completed, sum_work_time_seconds
)
select pg_temp.driver(n), to_char(date '2025-02-01' + day, 'DD-MM-YYYY'), trips, 3600
from unnest(array[1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 17]) as n,
    unnest(array[1, 2, 3, 5], array[1, 5, 10, 12]) as days (day, trips)
union all
select pg_temp.driver(3), '03-02-2025', 0, 1800
union all -- two parks on one day
select pg_temp.driver(1), '02-02-2025', 2, 1200;

insert into ops.partner_payment_rules (
    origin_tag, window_days, milestone_trips, amount, valid_from
)
values
('cabinet', 14, 1, 25.00, '2025-01-01'),
('cabinet', 14, 5, 35.00, '2025-01-01'),
('cabinet', 14, 25, 100.00, '2025-01-01');
insert into ops.scout_payment_rules (
    origin_tag, window_days, milestone_trips, amount, valid_from, valid_to, is_active
)
values
('fleet_migration', 30, 5, 50.00, '2025-01-01', null, true),
('cabinet', 7, 5, 15.00, '2025-01-01', '2026-12-31', true),
('cabinet', 7, 25, 15.00, '2024-01-01', '2024-12-31', false);

insert into ops.yango_payments_ledger (
    driver_id, person_key, identity_status, match_rule, match_confidence, latest_snapshot_at
)
values
(pg_temp.driver(1), pg_temp.person(1), 'confirmed', 'PHONE_EXACT', 'high', '2025-03-01 00:00:00+00'),
(pg_temp.driver(2), pg_temp.person(2), 'ambiguous', 'NAME', 'low', '2025-03-01 00:00:00+00');

-- --- The quarantine -----------------------------------------------------------------------------

create type public.orphan_detected_reason as enum (
    'no_lead_no_events',
    'no_lead_has_events_repair_failed',
    'legacy_driver_without_origin',
    'manual_detection'
);
create type public.orphan_status as enum (
    'quarantined',
    'resolved_relinked',
    'resolved_created_lead',
    'purged'
);
alter type public.orphan_detected_reason owner to older_owner;
alter type public.orphan_status owner to older_owner;
comment on type public.orphan_status is 'Made by CT4''s migration 014';

create table canon.driver_orphan_quarantine (
    driver_id varchar not null,
    person_key uuid,
    detected_at timestamptz not null default now(),
    detected_reason public.orphan_detected_reason not null,
    creation_rule varchar,
    evidence_json jsonb,
    status public.orphan_status not null default 'quarantined',
    resolved_at timestamptz,
    resolution_notes text,
    constraint driver_orphan_quarantine_pkey primary key (driver_id),
    constraint driver_orphan_quarantine_person_key_fkey foreign key (person_key)
    references canon.identity_registry (person_key) on delete set null
);
create index ix_driver_orphan_quarantine_status on canon.driver_orphan_quarantine (status);
create index ix_driver_orphan_quarantine_person_key
on canon.driver_orphan_quarantine (person_key)
where person_key is not null;

comment on table canon.driver_orphan_quarantine is
'Drivers without a lead: it''s append-only, 100 % auditable (see "instrucciones": $$1)';
comment on column canon.driver_orphan_quarantine.driver_id is 'public.drivers';
comment on column canon.driver_orphan_quarantine.detected_at is 'When, e.g. 10:30:00; 50 % are UTC';
comment on column canon.driver_orphan_quarantine.evidence_json is 'What the fix''s search found';
comment on index canon.ix_driver_orphan_quarantine_status is 'For the views';
comment on constraint driver_orphan_quarantine_person_key_fkey
on canon.driver_orphan_quarantine is 'People come and go';

insert into canon.driver_orphan_quarantine (
    driver_id, person_key, detected_at, detected_reason, creation_rule, evidence_json, status,
    resolved_at, resolution_notes
)
values
(
    pg_temp.driver(4), pg_temp.person(4), '2025-03-10 08:00:00.123456+00', 'no_lead_no_events',
    'LEGACY_BACKFILL', '{"checked": ["license", "phone"], "lead_events_count": 0}', 'quarantined',
    null, null
),
-- The person has a lead by now, and the driver is still shut out.
(
    pg_temp.driver(5), pg_temp.person(5), '2025-03-10 08:00:01+00', 'no_lead_no_events',
    'PHONE_EXACT', null, 'quarantined', null, null
),
(
    pg_temp.driver(6), pg_temp.person(6), '2025-03-10 08:00:02+00',
    'no_lead_has_events_repair_failed', 'LEGACY_BACKFILL',
    '{"lead_event_id": 6, "notes": "50 % sure: see $1"}', 'resolved_relinked',
    '2025-03-11 09:00:00+00', 'Relinked by the fix: mig-6'
),
-- Resolved without a lead.
(
    pg_temp.driver(7), pg_temp.person(7), '2025-03-10 08:00:03+00',
    'no_lead_has_events_repair_failed', 'PHONE_EXACT', '[{"lead_event_id": 99}]',
    'resolved_relinked', '2025-03-11 09:00:01+00', 'Relinked by the fix'
),
(
    pg_temp.driver(8), pg_temp.person(8), '2025-03-10 08:00:04+00', 'legacy_driver_without_origin',
    'LEGACY_BACKFILL', '{}', 'resolved_created_lead', '2025-05-01 10:00:00+00',
    'Lead created by the cabinet''s team'
),
(
    pg_temp.driver(9), pg_temp.person(9), '2025-03-10 08:00:05+00', 'manual_detection', null,
    'null', 'purged', '2025-04-01 11:00:00+00', 'Duplicate account'
),
-- Purged, and still linked.
(
    pg_temp.driver(10), pg_temp.person(10), '2025-03-10 08:00:06+00', 'no_lead_no_events',
    'LEGACY_BACKFILL', '["no events"]', 'purged', '2025-04-01 11:00:01+00', null
),
-- Two drivers of one person: one relinked, one forgotten.
(
    pg_temp.driver(13), pg_temp.person(13), '2025-03-10 08:00:07+00',
    'no_lead_has_events_repair_failed', 'PHONE_EXACT', '{"lead_event_id": 13}',
    'resolved_relinked', '2025-03-11 09:00:02+00', 'Relinked by the fix: cab-13'
),
(
    pg_temp.driver(14), pg_temp.person(13), '2025-03-10 08:00:08+00', 'no_lead_no_events',
    'LEGACY_BACKFILL', '"nothing"', 'quarantined', null, null
),
-- The person was deleted, and the link with it.
(
    pg_temp.driver(15), null, '2025-03-10 08:00:09+00', 'no_lead_no_events', 'PHONE_EXACT', '[]',
    'quarantined', null, 'asked the park'
),
(
    pg_temp.driver(16), pg_temp.person(16), '2025-03-10 08:00:10+00',
    'no_lead_has_events_repair_failed', 'LEGACY_BACKFILL', '[1, {"weak": true}]', 'quarantined',
    null, null
);

alter table canon.driver_orphan_quarantine owner to older_owner;
set role older_owner;
grant select on canon.driver_orphan_quarantine to older_reader;
grant select, insert, update on canon.driver_orphan_quarantine to older_writer;
grant select (driver_id, status) on canon.driver_orphan_quarantine to older_clerk;
reset role;

-- --- The older four views: the contract's columns, but for v_driver_orphans' last one -----------

create view ops.v_driver_orphans as
select
    quarantine.driver_id,
    quarantine.person_key,
    quarantine.detected_at,
    quarantine.detected_reason,
    quarantine.creation_rule,
    quarantine.evidence_json,
    quarantine.status,
    quarantine.resolved_at,
    quarantine.resolution_notes,
    identity_registry.primary_phone,
    identity_registry.primary_license,
    identity_registry.primary_full_name,
    identity_registry.confidence_level,
    (
        select count(*)
        from canon.identity_links
        where source_table = 'drivers' and source_pk = quarantine.driver_id
    ) as driver_links_count,
    (
        select count(*)
        from observational.lead_events
        where lead_events.person_key = quarantine.person_key
    ) as lead_events_count
from canon.driver_orphan_quarantine as quarantine
left join canon.identity_registry on identity_registry.person_key = quarantine.person_key
order by quarantine.detected_at desc;

create view ops.v_payment_calculation with (security_barrier) as
with rules as (
    select
        id, 'scout' as rule_scope, origin_tag, window_days, milestone_trips, amount, currency,
        valid_from, valid_to
    from ops.scout_payment_rules
    where is_active
    union all
    select
        id, 'partner' as rule_scope, origin_tag, window_days, milestone_trips, amount, currency,
        valid_from, valid_to
    from ops.partner_payment_rules
    where is_active
),

scheme as (
    select
        conversions.person_key,
        conversions.origin_tag,
        conversions.scout_id,
        conversions.driver_id,
        conversions.lead_date,
        rules.id as rule_id,
        rules.rule_scope,
        rules.milestone_trips,
        rules.window_days,
        rules.currency,
        rules.amount,
        rules.valid_from as rule_valid_from,
        rules.valid_to as rule_valid_to,
        case rules.milestone_trips
            when 1 then conversions.trip_1_date
            when 5 then conversions.trip_5_date
            when 25 then conversions.trip_25_date
        end as reached
    from observational.v_conversion_metrics as conversions
    inner join rules
        on
            rules.origin_tag = conversions.origin_tag
            and conversions.lead_date >= rules.valid_from
            and (rules.valid_to is null or conversions.lead_date <= rules.valid_to)
    where
        conversions.driver_id is not null
        and conversions.driver_id not in (
            select driver_id from canon.driver_orphan_quarantine where status = 'quarantined'
        )
)

select
    person_key,
    origin_tag,
    scout_id,
    driver_id,
    lead_date,
    rule_id,
    rule_scope,
    milestone_trips,
    window_days,
    currency,
    amount,
    rule_valid_from,
    rule_valid_to,
    coalesce(reached < lead_date + window_days, false) as milestone_achieved,
    case when reached < lead_date + window_days then reached end as achieved_date,
    case when reached < lead_date + window_days then milestone_trips else 0 end::bigint
        as achieved_trips_in_window,
    coalesce(reached < lead_date + window_days, false) as is_payable,
    case when reached < lead_date + window_days then reached + 14 end as payable_date,
    origin_tag || '_' || window_days || 'd_' || milestone_trips || 'trips' as payment_scheme
from scheme;

create view ops.v_cabinet_funnel_status as
with activity as (
    select
        driver_id,
        sum(count_orders_completed) as trips,
        min(to_date(date_file, 'DD-MM-YYYY')) filter (where sum_work_time_seconds > 0) as connected
    from public.summary_daily
    group by driver_id
)

select
    links.source_pk as driver_id,
    links.person_key,
    (
        select coalesce(min(payments.origin_tag), 'unknown')
        from ops.v_payment_calculation as payments
        where payments.driver_id = links.source_pk
    ) as origin_tag,
    case
        when activity.connected is null then 'registered_complete'
        when activity.trips >= 25 then 'reached_m25'
        when activity.trips >= 5 then 'reached_m5'
        when activity.trips >= 1 then 'reached_m1'
        else 'connected_no_trips'
    end as funnel_status,
    activity.connected is not null as connected_flag,
    activity.connected as connected_date,
    coalesce(activity.trips, 0)::bigint as trips_total,
    (
        select max(milestone_value)
        from ops.v_cabinet_milestones_achieved_from_trips as milestones
        where milestones.driver_id = links.source_pk
    ) as highest_milestone,
    m1.achieved_date as m1_date,
    m5.achieved_date as m5_date,
    m25.achieved_date as m25_date
from canon.identity_links as links
left join activity on activity.driver_id = links.source_pk
left join ops.v_cabinet_milestones_achieved_from_trips as m1
    on m1.driver_id = links.source_pk and m1.milestone_value = 1
left join ops.v_cabinet_milestones_achieved_from_trips as m5
    on m5.driver_id = links.source_pk and m5.milestone_value = 5
left join ops.v_cabinet_milestones_achieved_from_trips as m25
    on m25.driver_id = links.source_pk and m25.milestone_value = 25
where
    links.source_table = 'drivers'
    and links.source_pk not in (
        select driver_id from canon.driver_orphan_quarantine where status = 'quarantined'
    );

-- Its own flaw: a row for each origin of a person.
create view ops.v_ct4_eligible_drivers as
select
    conversions.driver_id,
    conversions.person_key,
    conversions.origin_tag,
    coalesce(yango.identity_status, 'confirmed') as identity_status,
    coalesce(yango.match_rule, links.match_rule) as match_rule,
    coalesce(yango.match_confidence, links.confidence_level::text) as match_confidence,
    links.snapshot_date::date as first_seen_at,
    coalesce(yango.latest_snapshot_at, links.snapshot_date) as latest_snapshot_at
from observational.v_conversion_metrics as conversions
inner join canon.identity_links as links
    on links.source_table = 'drivers' and links.source_pk = conversions.driver_id
left join ops.v_yango_payments_ledger_latest_enriched as yango
    on yango.driver_id_final = conversions.driver_id
where
    conversions.origin_tag in ('cabinet', 'fleet_migration')
    and conversions.driver_id not in (
        select driver_id from canon.driver_orphan_quarantine where status = 'quarantined'
    );

alter view ops.v_driver_orphans alter column status set default 'quarantined';
comment on view ops.v_driver_orphans is 'The quarantine''s list: who, why; 100 % of them';
comment on column ops.v_driver_orphans.driver_id is 'Who: the driver''s id';
comment on column ops.v_driver_orphans.evidence_json is 'Why';
comment on view ops.v_payment_calculation is 'What is to be paid';
comment on column ops.v_payment_calculation.payment_scheme is 'origin_Wd_Ntrips';
comment on view ops.v_cabinet_funnel_status is 'Where a driver stands';
comment on column ops.v_cabinet_funnel_status.trips_total is 'Of all time';
comment on view ops.v_ct4_eligible_drivers is 'For the claims';
comment on column ops.v_ct4_eligible_drivers.first_seen_at is 'Of the link';

alter view ops.v_driver_orphans owner to older_owner;
alter view ops.v_payment_calculation owner to older_owner;
alter view ops.v_cabinet_funnel_status owner to older_owner;
alter view ops.v_ct4_eligible_drivers owner to older_owner;
set role older_owner;
grant select
on ops.v_driver_orphans, ops.v_payment_calculation, ops.v_cabinet_funnel_status,
ops.v_ct4_eligible_drivers
to older_reader;
grant select on ops.v_payment_calculation to older_writer with grant option;
grant select (driver_id, person_key) on ops.v_driver_orphans to older_clerk;
grant select on ops.v_ct4_eligible_drivers to public;
reset role;

-- --- Views of other teams -----------------------------------------------------------------------

set role older_reader;

-- On ours.
create view reporting.driver_matrix as select * from ops.v_driver_orphans;
comment on view reporting.driver_matrix is 'The driver matrix';

create view reporting.claims as
select
    payments.driver_id,
    funnel.funnel_status,
    payments.rule_scope,
    sum(payments.amount) filter (where payments.is_payable) as payable
from ops.v_payment_calculation as payments
inner join ops.v_cabinet_funnel_status as funnel using (driver_id)
group by payments.driver_id, funnel.funnel_status, payments.rule_scope;
grant select on reporting.claims to older_writer;
comment on column reporting.claims.payable is 'In the rule''s currency';

create materialized view reporting.eligible_drivers as
select driver_id, person_key, origin_tag from ops.v_ct4_eligible_drivers;
create index ix_eligible_drivers on reporting.eligible_drivers (driver_id);
grant select on reporting.eligible_drivers to older_clerk;
comment on materialized view reporting.eligible_drivers is 'Refreshed by night';

-- On the table itself, with what a careless copy of a definition trips over: a colon, a percent
-- sign, quotes, a dollar, capitals, a whole row, an order, options.
create view reporting.quarantine_export with (security_barrier) as
select
    driver_id,
    status,
    detected_reason,
    to_char(detected_at at time zone 'America/Lima', 'YYYY-MM-DD HH24:MI') as detected_in_lima,
    coalesce(creation_rule, 'it''s :unknown') as creation_rule,
    creation_rule like 'LEGACY%' and creation_rule not like '%\_:none' as is_legacy,
    evidence_json #>> '{lead_event_id}' as lead_event_id,
    evidence_json ? 'checked' as is_checked,
    to_jsonb(quarantine) as entry
from canon.driver_orphan_quarantine as quarantine
where status <> 'purged' or resolution_notes is not null
order by driver_id;
comment on view reporting.quarantine_export is 'Don''t ask: 100 % of it, $$and more$$';
comment on column reporting.quarantine_export.detected_in_lima is 'Local time, e.g. 08:00';
grant select on reporting.quarantine_export to older_writer;
grant select (driver_id, is_legacy) on reporting.quarantine_export to older_clerk;

create view reporting.quarantine_export_open as
select driver_id, detected_in_lima, is_legacy
from reporting.quarantine_export
where status = 'quarantined';
grant select on reporting.quarantine_export_open to older_clerk;

create view reporting."Quarantine by Week" as
select
    date_trunc('week', detected_at) as "Week of: Detection",
    count(*) as "Drivers",
    count(*) filter (where driver_orphan_quarantine.status = 'quarantined') as "100%"
from canon.driver_orphan_quarantine
group by 1;
comment on column reporting."Quarantine by Week"."100%" is 'Still in quarantine';

reset role;

-- Written through: a view of the writers' own, with a check.
create view reporting.quarantine_desk as
select driver_id, status, resolution_notes, resolved_at, detected_reason
from canon.driver_orphan_quarantine
where status in ('quarantined', 'purged')
with local check option;
alter view reporting.quarantine_desk alter column detected_reason set default 'manual_detection';
alter view reporting.quarantine_desk owner to older_writer;

-- With both the table and a view on it.
create view reporting.quarantine_and_matrix as
select driver_id, quarantine.status, matrix.primary_full_name
from canon.driver_orphan_quarantine as quarantine
left join reporting.driver_matrix as matrix using (driver_id);
alter view reporting.quarantine_and_matrix owner to older_owner;
grant select on reporting.driver_matrix to older_owner;
