-- A CT4 database of any size, made set-wise. Sizes come as settings: bench.drivers, bench.orphans,
-- bench.events, bench.days. The same sizes give the same rows.
--
-- Drivers 1 to `orphans` have no lead. Of those a fifth is named by an event, a fifth has an
-- event with its licence or phone, one in fifty shares a phone with fifty others. Everybody else
-- has a lead, of the three sources in turn. Events without a person are about strangers. One
-- driver in twenty works in two parks, so has two rows a day; one row in a thousand has a date
-- that is none.

create function pg_temp.size_of(name text) returns int
language sql stable
as $$ select current_setting('bench.' || name)::int $$;

create function pg_temp.source_of(number int) returns text
language sql immutable
as $$
    select case number % 3
        when 0 then 'module_ct_cabinet_leads'
        when 1 then 'module_ct_scouting_daily'
        else 'module_ct_migrations'
    end
$$;

create temporary table town as
select
    number,
    md5('driver ' || number) as driver_id,
    md5('person ' || number)::uuid as person_key,
    number <= pg_temp.size_of('orphans') as is_orphan,
    (920000000 + number)::text as phone,
    'Q' || (10000000 + number) as license,
    pg_temp.source_of(number) as source_table
from generate_series(1, pg_temp.size_of('drivers')) as number;
analyze town;

insert into canon.identity_registry (
    person_key, confidence_level, primary_phone, primary_license, primary_full_name
)
select
    person_key,
    (array['HIGH', 'MEDIUM', 'LOW'])[1 + number % 3]::public.confidencelevel,
    '+51' || phone,
    license,
    'Name ' || number
from town;

-- In the order in which people came: the driver, then the lead.
insert into canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level,
    evidence, linked_at
)
select
    town.person_key,
    links.source_table,
    links.source_pk,
    '2025-06-01 12:00:00+00'::timestamptz + town.number % 60 * interval '1 day',
    'R1_PHONE_EXACT',
    100,
    (array['HIGH', 'MEDIUM', 'LOW'])[1 + town.number % 3]::public.confidencelevel,
    jsonb_build_object('rule', 'R1_PHONE_EXACT', 'phone_norm', town.phone),
    '2025-06-01 12:00:00+00'::timestamptz + town.number % 60 * interval '1 day'
from town
cross join lateral (
    values
        (true, 'drivers', town.driver_id),
        (not town.is_orphan, town.source_table, 'lead-' || town.number)
) as links (is_there, source_table, source_pk)
where links.is_there
order by town.number;

insert into canon.drivers_index (
    driver_id, park_id, phone_norm, license_norm, full_name_norm, snapshot_date
)
select
    driver_id,
    'park-' || number % 40,
    case when is_orphan and number % 50 = 0 then '999000000' else phone end,
    license,
    'NAME ' || number,
    '2025-06-01'
from town;

insert into public.drivers (driver_id, park_id, full_name, phone, license_number, hire_date)
select
    driver_id,
    'park-' || number % 40,
    'Name ' || number,
    '+51 ' || phone,
    license,
    date '2025-06-01' + number % 60
from town;

-- The lead event of everybody with a lead; that of one in four has no person_key, only a lead link.
insert into observational.lead_events (
    source_table, source_pk, event_date, person_key, scout_id, payload_json, created_at
)
select
    source_table,
    'lead-' || number,
    date '2025-06-20' + number % 30,
    case when number % 4 > 0 then person_key end,
    number % 100,
    case number % 3
        when 2 then jsonb_build_object(
            'driver_id', driver_id, 'driver_name', 'Name ' || number, 'scout_name', 'Scout',
            'hire_date', '2025-06-20', 'origin_tag', 'fleet_migration'
        )
        when 1 then jsonb_build_object(
            'driver_name', 'Name ' || number, 'driver_phone', '+51 ' || phone,
            'driver_license', license, 'acquisition_method', 'street',
            'matching_evidence', jsonb_build_object(), 'needs_identity_link', false
        )
        else jsonb_build_object(
            'external_id', number, 'first_name', 'Name', 'last_name', number::text,
            'park_phone', phone, 'asset_plate_number', 'ABC-' || number,
            'matched_by', 'phone', 'match_meta', jsonb_build_object()
        )
    end,
    '2025-06-20 12:00:00+00'
from town
where not is_orphan;

-- What speaks for orphans, under lead rows that nobody is linked to.
insert into observational.lead_events (
    source_table, source_pk, event_date, person_key, scout_id, payload_json, created_at
)
select
    case number % 10 / 2 when 0 then 'module_ct_migrations' else 'module_ct_scouting_daily' end,
    'orphan-' || number,
    date '2025-06-20' + number % 30,
    null,
    number % 100,
    case number % 10 / 2
        when 0 then jsonb_build_object(
            'driver_id', driver_id, 'driver_name', 'Name ' || number, 'scout_name', 'Scout',
            'hire_date', '2025-06-20', 'origin_tag', 'fleet_migration'
        )
        else jsonb_build_object(
            'driver_name', 'Name ' || number,
            'driver_phone', case when number % 50 = 3 then '999 000 000' else phone end,
            'driver_license', case when number % 4 < 2 then lower(license) end,
            'acquisition_method', 'street',
            'matching_evidence', jsonb_build_object(), 'needs_identity_link', true
        )
    end,
    '2025-06-20 12:00:00+00'
from town
where is_orphan and number % 10 in (0, 1, 2, 3);

-- The rest of the events: half about people of the town (a second, a third sighting), half about
-- strangers.
insert into observational.lead_events (
    source_table, source_pk, event_date, person_key, scout_id, payload_json, created_at
)
select
    pg_temp.source_of(event),
    'event-' || event,
    date '2025-06-25' + event % 60,
    case when event % 2 = 0 then town.person_key end,
    event % 100,
    case event % 3
        when 2 then jsonb_build_object(
            'driver_id', md5('stranger ' || event), 'driver_name', 'Name ' || event,
            'scout_name', 'Scout', 'hire_date', '2025-06-20', 'origin_tag', 'fleet_migration'
        )
        when 1 then jsonb_build_object(
            'driver_name', 'Name ' || event, 'driver_phone', (800000000 + event)::text,
            'driver_license', 'X-' || event, 'acquisition_method', 'street',
            'matching_evidence', jsonb_build_object(), 'needs_identity_link', true
        )
        else jsonb_build_object(
            'external_id', event, 'first_name', 'Name', 'last_name', event::text,
            'park_phone', (800000000 + event)::text, 'asset_plate_number', 'ABC-' || event,
            'matched_by', null, 'match_meta', jsonb_build_object()
        )
    end,
    '2025-06-25 12:00:00+00'
from generate_series(
    1,
    pg_temp.size_of('events') - (select count(*)::int from observational.lead_events)
) as event
-- a person who has a lead, any of them
inner join town
    on town.number = pg_temp.size_of('orphans') + 1
        + event % (pg_temp.size_of('drivers') - pg_temp.size_of('orphans'));

insert into observational.lead_ledger (
    person_key, attributed_source, decision_status, updated_at
)
select
    person_key,
    case when source_table = 'module_ct_migrations' then 'fleet_migration' else 'cabinet' end,
    'assigned',
    '2025-06-20 12:00:00+00'
from town
where not is_orphan;

insert into ops.yango_payments_ledger (
    driver_id, person_key, identity_status, match_rule, match_confidence, latest_snapshot_at
)
select
    driver_id,
    person_key,
    (array['confirmed', 'enriched', 'ambiguous'])[1 + number % 3],
    'source_pk',
    'high',
    '2025-07-15 12:00:00+00'
from town
where number % 2 = 0;

insert into ops.scout_payment_rules (
    origin_tag, window_days, milestone_trips, amount, valid_from
)
select origin_tag, window_days, milestone_trips, milestone_trips * 2, '2025-01-01'
from (values ('cabinet', 7), ('fleet_migration', 30)) as terms (origin_tag, window_days)
cross join (values (1), (5), (25)) as milestones (milestone_trips);

insert into ops.partner_payment_rules (
    origin_tag, window_days, milestone_trips, amount, valid_from
)
select 'cabinet', 14, milestone_trips, milestone_trips * 3, '2025-01-01'
from (values (1), (5), (25)) as milestones (milestone_trips);

-- A file a day, with every driver in it.
insert into public.summary_daily (
    driver_id, date_file, count_orders_completed, sum_work_time_seconds
)
select
    town.driver_id,
    case
        when (town.number + day) % 1000 = 0 then '31-02-2025'
        else to_char(date '2025-07-01' + day, 'DD-MM-YYYY')
    end,
    case when (town.number * 7 + day * 3) % 5 < 2 then 0 else (town.number + day) % 6 end,
    case when (town.number * 7 + day * 3) % 5 = 0 then 0 else 3600 end
from generate_series(0, pg_temp.size_of('days') - 1) as day
cross join town
cross join lateral generate_series(1, case when town.number % 20 = 0 then 2 else 1 end);

drop table town;
