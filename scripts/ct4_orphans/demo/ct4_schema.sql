-- A CT4 Identity database as it exists before this project arrives: structure only.
-- Used by `make demo` and by the tests. On a real deployment all of this belongs to CT4's
-- own services and is never touched.

create schema canon;
create schema observational;
create schema ops;

create type public.confidencelevel as enum ('HIGH', 'MEDIUM', 'LOW');
create type public.attributionconfidence as enum ('high', 'medium', 'low');
create type public.decisionstatus as enum ('assigned', 'unassigned', 'conflict');
create type public.ingestionstatus as enum ('RUNNING', 'COMPLETED', 'FAILED');

create table canon.identity_registry (
    person_key uuid primary key,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    confidence_level public.confidencelevel not null default 'LOW',
    primary_phone varchar,
    primary_document varchar,
    primary_license varchar,
    primary_full_name varchar,
    flags jsonb
);

create table ops.ingestion_runs (
    id serial primary key,
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    status public.ingestionstatus not null default 'RUNNING',
    stats json,
    error_message varchar,
    job_type varchar
);

create table canon.identity_links (
    id serial primary key,
    person_key uuid not null references canon.identity_registry (person_key),
    source_table varchar not null,
    source_pk varchar not null,
    snapshot_date timestamptz not null,
    match_rule varchar not null,
    match_score int not null,
    confidence_level public.confidencelevel not null,
    evidence jsonb,
    linked_at timestamptz not null default now(),
    run_id int references ops.ingestion_runs (id),
    constraint uq_identity_links_source unique (source_table, source_pk)
);

create table canon.drivers_index (
    driver_id varchar primary key,
    park_id varchar,
    phone_norm varchar,
    license_norm varchar,
    plate_norm varchar,
    full_name_norm varchar,
    brand_norm varchar,
    model_norm varchar,
    hire_date date,
    snapshot_date date not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table observational.lead_events (
    id serial primary key,
    source_table varchar not null,
    source_pk varchar not null,
    event_date date not null,
    person_key uuid references canon.identity_registry (person_key),
    scout_id int,
    payload_json jsonb,
    created_at timestamptz not null default now(),
    constraint uq_lead_events_source unique (source_table, source_pk)
);
create index ix_lead_events_person_key on observational.lead_events (person_key);
create index ix_lead_events_event_date on observational.lead_events (event_date);
create index ix_lead_events_scout_id on observational.lead_events (scout_id);

create table observational.lead_ledger (
    person_key uuid primary key,
    attributed_source varchar,
    attributed_scout_id int,
    attribution_rule varchar,
    attribution_score numeric(5, 2),
    confidence_level public.attributionconfidence,
    evidence_json jsonb,
    decision_status public.decisionstatus,
    updated_at timestamptz not null default now()
);

create table ops.scout_payment_rules (
    id serial primary key,
    origin_tag varchar(50) not null,
    window_days int not null check (window_days > 0),
    milestone_trips int not null check (milestone_trips > 0),
    amount numeric(12, 2) not null,
    currency varchar(3) not null default 'PEN',
    valid_from date not null,
    valid_to date,
    is_active bool not null default true,
    notes text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table ops.partner_payment_rules (
    id serial primary key,
    origin_tag varchar(50) not null,
    window_days int not null check (window_days > 0),
    milestone_trips int not null check (milestone_trips > 0),
    amount numeric(12, 2) not null,
    currency varchar(3) not null default 'PEN',
    valid_from date not null,
    valid_to date,
    is_active bool not null default true,
    notes text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table ops.yango_payments_ledger (
    id serial primary key,
    driver_id varchar,
    person_key uuid,
    identity_status text,
    match_rule text,
    match_confidence text,
    latest_snapshot_at timestamptz
);

create view ops.v_yango_payments_ledger_latest_enriched as
select
    ledger.driver_id::text as driver_id_final,
    ledger.person_key as person_key_final,
    ledger.identity_status,
    ledger.match_rule,
    ledger.match_confidence,
    ledger.latest_snapshot_at
from ops.yango_payments_ledger as ledger;

create table public.drivers (
    driver_id varchar primary key,
    park_id varchar,
    first_name varchar,
    last_name varchar,
    middle_name varchar,
    full_name varchar,
    phone varchar,
    license_number varchar,
    license_normalized_number varchar,
    hire_date date,
    created_at timestamp
);

create table public.summary_daily (
    driver_id text,
    date_file text,
    count_orders_completed int,
    sum_work_time_seconds bigint
);

create table public.module_ct_cabinet_leads (
    id serial primary key,
    external_id varchar unique,
    lead_created_at timestamptz,
    first_name varchar,
    last_name varchar,
    park_phone varchar,
    asset_plate_number varchar
);

create table public.module_ct_scouting_daily (
    id serial primary key,
    registration_date date,
    scout_id int,
    driver_name varchar,
    driver_phone varchar,
    driver_license varchar,
    acquisition_method varchar
);

create table public.module_ct_migrations (
    id serial primary key,
    driver_id varchar,
    driver_name varchar,
    scout_name varchar,
    hire_date date
);

-- CT4's own conversion metrics: slow, and to_date() fails as a whole on one impossible date.
create view observational.v_conversion_metrics as
with events as (
    select
        lead_events.person_key,
        coalesce(
            lead_events.payload_json ->> 'origin_tag',
            case
                when lead_events.source_table = 'module_ct_migrations' then 'fleet_migration'
                when lead_events.source_table in ('module_ct_cabinet_leads', 'module_ct_scouting_daily')
                    then 'cabinet'
                else coalesce(lead_ledger.attributed_source, 'unknown')
            end
        )::text as origin_tag,
        lead_events.event_date,
        lead_events.scout_id,
        lead_events.id
    from observational.lead_events
    left join observational.lead_ledger on lead_ledger.person_key = lead_events.person_key
    where lead_events.person_key is not null
),

leads as (
    select
        person_key,
        origin_tag,
        min(event_date) as lead_date,
        case
            when origin_tag = 'fleet_migration'
                then (array_agg(scout_id order by event_date desc, id desc))[1]
        end as scout_id
    from events
    group by person_key, origin_tag
),

driver_of_person as (
    select distinct on (person_key)
        person_key,
        source_pk as driver_id
    from canon.identity_links
    where source_table = 'drivers'
    order by person_key, linked_at desc, id desc
),

days as (
    select
        driver_id,
        to_date(date_file, 'DD-MM-YYYY') as day,
        sum(coalesce(count_orders_completed, 0)) as trips,
        sum(coalesce(sum_work_time_seconds, 0)) as work_seconds
    from public.summary_daily
    where driver_id is not null and date_file is not null
    group by driver_id, to_date(date_file, 'DD-MM-YYYY')
),

running as (
    select
        leads.person_key,
        leads.origin_tag,
        leads.lead_date,
        days.day,
        days.trips,
        days.work_seconds,
        sum(days.trips) over (
            partition by leads.person_key, leads.origin_tag
            order by days.day
        ) as trips_so_far
    from leads
    inner join driver_of_person on driver_of_person.person_key = leads.person_key
    inner join days on days.driver_id = driver_of_person.driver_id and days.day >= leads.lead_date
),

activity as (
    select
        person_key,
        origin_tag,
        min(day) filter (where work_seconds > 0) as first_connection_date,
        min(day) filter (where trips > 0) as first_trip_date,
        min(day) filter (where trips_so_far >= 1) as trip_1_date,
        min(day) filter (where trips_so_far >= 5) as trip_5_date,
        min(day) filter (where trips_so_far >= 25) as trip_25_date,
        sum(trips) filter (where day < lead_date + 7) as trips_7d,
        sum(trips) filter (where day < lead_date + 14) as trips_14d,
        sum(trips) filter (where day < lead_date + 30) as trips_30d
    from running
    group by person_key, origin_tag
)

select
    leads.person_key,
    leads.origin_tag,
    leads.lead_date,
    leads.scout_id,
    driver_of_person.driver_id,
    drivers.hire_date,
    activity.first_connection_date,
    activity.first_trip_date,
    activity.trip_1_date,
    activity.trip_5_date,
    activity.trip_25_date,
    activity.first_connection_date - leads.lead_date as time_to_connection_days,
    activity.trip_1_date - leads.lead_date as time_to_1_days,
    activity.trip_5_date - leads.lead_date as time_to_5_days,
    activity.trip_25_date - leads.lead_date as time_to_25_days,
    coalesce(activity.trips_7d, 0)::bigint as trips_7d,
    coalesce(activity.trips_14d, 0)::bigint as trips_14d,
    coalesce(activity.trips_30d, 0)::bigint as trips_30d
from leads
left join driver_of_person on driver_of_person.person_key = leads.person_key
left join public.drivers on drivers.driver_id = driver_of_person.driver_id
left join activity
    on activity.person_key = leads.person_key and activity.origin_tag = leads.origin_tag;

-- CT4's own milestones, with the same weakness.
create view ops.v_cabinet_milestones_achieved_from_trips as
with days as (
    select
        driver_id,
        to_date(date_file, 'DD-MM-YYYY') as day,
        sum(coalesce(count_orders_completed, 0)) as trips
    from public.summary_daily
    where driver_id is not null and date_file is not null
    group by driver_id, to_date(date_file, 'DD-MM-YYYY')
),

running as (
    select
        driver_id,
        day,
        sum(trips) over (partition by driver_id order by day) as trips_so_far
    from days
)

select distinct on (running.driver_id, milestones.milestone_value)
    running.driver_id,
    milestones.milestone_value,
    true as achieved_flag,
    running.day as achieved_date,
    running.trips_so_far::bigint as trips_at_achieved
from running
inner join (values (1), (5), (25)) as milestones (milestone_value)
    on running.trips_so_far >= milestones.milestone_value
order by running.driver_id, milestones.milestone_value, running.day;
