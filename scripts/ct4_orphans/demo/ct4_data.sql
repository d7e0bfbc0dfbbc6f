-- A quarter (2025-07-01 to 2025-09-30) of CT4 Identity before this project arrives: the demo's data.
--
-- Size and shape are production's; the cases are chosen so that every rule and every refusal
-- occurs. Nothing is random and nothing depends on the clock, the time zone or the server's
-- version: the same rows come out every time, so the numbers below can be asserted.
--
-- NUMBERS
--
-- Who is who, by number (a driver's id is md5('driver-' || number)):
--        1 ..    60   orphans that a fix relinks
--       61 ..   120   orphans with evidence that must be refused
--      121 ..   886   orphans without evidence
--      887 .. 55200   drivers with a lead: 887 cabinet, 1587 scouting, 4137 and up migrations;
--                     54901 and up are the second driver of a person
--    60001 .. 60170   persons with a lead and no driver
--    60201 .. 60240   drivers with trips and no link at all
--    70001 and up     strangers: names, phones and licences that match nobody


-- =====================================================================================
-- Helpers: everything is a function of a row number
-- =====================================================================================

-- A number below `size` that looks random. hashint4extended is what hash partitioning stands
-- on, so its results do not change between major versions.
create function pg_temp.pick(n int, salt int, size int) returns int language sql immutable as $$
    select ((hashint4extended(n, salt) & 1125899906842623) % size)::int
$$;

create function pg_temp.driver_id(n int) returns text language sql immutable as $$
    select md5('driver-' || n::text)
$$;

create function pg_temp.person_key(n int) returns uuid language sql immutable as $$
    select md5('person-' || n::text)::uuid
$$;

-- Phones and licences: multiplication by a number coprime to the modulus maps different
-- numbers to different values. Two drivers share one only where a case below says so.
create function pg_temp.phone(n int) returns text language sql immutable as $$
    select (900000000 + (n * 61803399::bigint + 12345678) % 100000000)::text
$$;

create function pg_temp.licence(n int) returns text language sql immutable as $$
    select
        substr('QQQQQQHKMABC', 1 + n % 12, 1)
        || (40000000 + (n * 24157817::bigint + 7654321) % 40000000)::text
$$;

-- The same phone and licence as different people type them.
create function pg_temp.spell_phone(phone text, style int) returns text
language sql immutable as $$
    select case case when length(phone) = 9 then style % 5 else 0 end
        when 0 then phone
        when 1 then '+51 ' || substr(phone, 1, 3) || ' ' || substr(phone, 4, 3) || ' ' || substr(phone, 7)
        when 2 then '51' || phone
        when 3 then substr(phone, 1, 3) || '-' || substr(phone, 4, 3) || '-' || substr(phone, 7)
        else '(+51) ' || phone
    end
$$;

create function pg_temp.spell_licence(licence text, style int) returns text
language sql immutable as $$
    select case style % 5
        when 0 then licence
        when 1 then lower(licence)
        when 2 then substr(licence, 1, 1) || '-' || substr(licence, 2)
        when 3 then substr(licence, 1, 1) || ' ' || substr(licence, 2, 4) || ' ' || substr(licence, 6)
        else ' ' || lower(substr(licence, 1, 1)) || '-' || substr(licence, 2) || ' '
    end
$$;

create function pg_temp.first_name(n int) returns text language sql immutable as $$
    select (array[
        'Juan Carlos', 'José Luis', 'Luis Alberto', 'Miguel Ángel', 'Jorge', 'Carlos Enrique',
        'Víctor Hugo', 'César Augusto', 'Percy', 'Wilmer', 'Edwin', 'Julio César', 'Raúl',
        'Walter', 'Richard', 'Henry', 'Jhon', 'Elmer', 'Freddy', 'Marco Antonio', 'Pedro Pablo',
        'Rosa María', 'María Elena', 'Carmen', 'Yesenia', 'Milagros', 'Gladys', 'Fiorella'
    ])[1 + pg_temp.pick(n, 1, 28)]
$$;

create function pg_temp.last_name(n int, salt int) returns text language sql immutable as $$
    select (array[
        'Quispe', 'Mamani', 'Flores', 'Rojas', 'Huamán', 'Sánchez', 'García', 'Rodríguez',
        'Condori', 'Chávez', 'Ramos', 'Mendoza', 'Castillo', 'Vásquez', 'Torres', 'Díaz',
        'Gutiérrez', 'Huanca', 'Espinoza', 'Ccopa', 'Peña', 'Núñez', 'Paredes', 'Salazar',
        'Palomino', 'Cárdenas', 'Yupanqui', 'Ticona', 'Choque', 'Apaza', 'Villanueva', 'Zapata'
    ])[1 + pg_temp.pick(n, salt, 32)]
$$;

create function pg_temp.full_name(n int) returns text language sql immutable as $$
    select
        pg_temp.first_name(n) || ' ' || pg_temp.last_name(n, 2) || ' ' || pg_temp.last_name(n, 3)
$$;

create function pg_temp.plate(n int) returns text language sql immutable as $$
    select
        chr(65 + pg_temp.pick(n, 4, 6)) || pg_temp.pick(n, 5, 10)::text || chr(65 + pg_temp.pick(n, 6, 26))
        || '-' || (100 + pg_temp.pick(n, 7, 900))::text
$$;

-- Day 0 is 2025-07-01. Leads begin in mid-May; an orphan's early enough for a week of trips.
create function pg_temp.lead_day(n int) returns int language sql immutable as $$
    select case when n <= 886 then pg_temp.pick(n, 8, 75) else pg_temp.pick(n, 8, 134) - 45 end
$$;

create function pg_temp.calendar(day int) returns date language sql immutable as $$
    select date '2025-07-01' + day
$$;

-- Hours, not days: adding days to a timestamptz depends on the session's time zone.
create function pg_temp.moment(day int, hour numeric) returns timestamptz
language sql stable as $$
    select timestamptz '2025-07-01 00:00:00+00' + (day * 24 + hour) * interval '1 hour'
$$;


-- =====================================================================================
-- Drivers: who they are, where their licence and phone are known, how much they drive
-- =====================================================================================

create temporary table demo_driver as
with numbers as (
    select n from generate_series(1, 55200) as linked (n)
    union all
    select n from generate_series(60201, 60240) as unlinked (n)
),

identities as (
    select
        n,
        n <= 55200 as is_linked,
        case
            when n in (20, 32, 60, 120, 122) then n - 1   -- orphans, two drivers of one person
            when n between 54901 and 55200 then n - 1000  -- the same, with a lead
            else n
        end as person_no,
        case
            when n in (66, 68, 70) then n - 1           -- two orphans with one phone
            when n between 61 and 64 then n + 10000     -- shared with a driver who has a lead
            when n between 107 and 110 then n + 2000    -- shared with a scouted driver
            else n
        end as phone_no,
        case
            when n in (78, 80) then n - 1
            when n between 71 and 76 then n + 10000
            else n
        end as licence_no,
        -- 1 drivers_index, 2 public.drivers, 3 only identity_registry
        case
            when n between 190 and 210 then 1
            when n <= 120 then case n % 10 when 3 then 2 when 7 then 3 else 1 end
            when pg_temp.pick(n, 10, 100) < 90 then 1
            when pg_temp.pick(n, 10, 100) < 99 then 2
            else 3
        end as detail_source,
        pg_temp.lead_day(n) as lead_day,
        case
            when n <= 60 then case when n % 6 = 0 then 'occasional' else 'steady' end
            when n > 60200 then 'light'
            when pg_temp.pick(n, 11, 1000) < 9 then 'absent'       -- not in summary_daily
            when pg_temp.pick(n, 11, 1000) < 12 then 'offline'     -- rows, but no work
            when pg_temp.pick(n, 11, 1000) < 22 then 'waiting'     -- work time, but no order
            when pg_temp.pick(n, 11, 1000) < 90 then 'occasional'  -- 1 to 4 trips
            when pg_temp.pick(n, 11, 1000) < 220 then 'light'      -- 6 to 24 trips
            else 'regular'
        end as activity
    from numbers
),

starts as (
    select
        *,
        case
            when activity = 'steady' then lead_day
            when n > 886 and pg_temp.pick(n, 12, 5) = 0 then 0  -- drove before the lead
            else greatest(0, least(91, lead_day + pg_temp.pick(n, 13, 5)))
        end as first_day
    from identities
)

select
    n,
    is_linked,
    person_no,
    detail_source,
    lead_day,
    activity,
    first_day,
    pg_temp.driver_id(n) as driver_id,
    pg_temp.person_key(person_no) as person_key,
    case
        when n between 200 and 205 then '5550' || n  -- seven digits are no phone
        else pg_temp.phone(phone_no)
    end as phone,
    case
        when n between 190 and 199 or (n > 886 and pg_temp.pick(n, 14, 100) = 0) then ''
        else pg_temp.licence(licence_no)
    end as licence,
    -- A source that does not know the driver has no row, or a row without the values.
    detail_source = 1 or n % 20 < 10 as has_index_row,
    case detail_source
        when 1 then n <= 210 or pg_temp.pick(n, 15, 1000) >= 5
        when 2 then true
        else n % 40 < 20
    end as has_public_row,
    md5('park-' || pg_temp.pick(n, 16, 12)) as park_id,
    least(91, case activity
        when 'occasional' then first_day + pg_temp.pick(n, 17, 2)
        when 'regular' then
            case when pg_temp.pick(n, 18, 5) = 0 then first_day + 7 + pg_temp.pick(n, 17, 24) else 91 end
        when 'steady' then 91
        else first_day + 2
    end) as last_day,
    case activity
        when 'regular' then 230 + pg_temp.pick(n, 19, 400)
        when 'steady' then 900
        else 1000
    end as days_per_mille,
    case activity
        when 'occasional' then 1
        when 'light' then 2
        when 'regular' then 3 + pg_temp.pick(n, 20, 9)
        when 'steady' then 4
        else 0
    end as orders_min,
    case activity
        when 'occasional' then 2
        when 'light' then 7
        when 'regular' then 9
        when 'steady' then 9
        else 1
    end as orders_spread
from starts;


-- =====================================================================================
-- Persons and drivers
-- =====================================================================================

insert into canon.identity_registry (
    person_key, created_at, updated_at, confidence_level,
    primary_phone, primary_document, primary_license, primary_full_name, flags
)
select
    person_key,
    pg_temp.moment(lead_day, 14),
    pg_temp.moment(greatest(lead_day, 60), 20),
    case
        when pg_temp.pick(n, 30, 100) < 70 then 'HIGH'
        when pg_temp.pick(n, 30, 100) < 90 then 'MEDIUM'
        else 'LOW'
    end::public.confidencelevel,
    case when detail_source = 3 or pg_temp.pick(n, 31, 10) < 6 then phone end,
    case when licence <> '' then substr(licence, 2) end,
    case when detail_source = 3 or pg_temp.pick(n, 31, 10) < 6 then licence end,
    pg_temp.full_name(n),
    case when pg_temp.pick(n, 32, 20) = 0 then '{"needs_review": true}'::jsonb end
from demo_driver
where is_linked and n = person_no
order by n;

insert into canon.identity_registry (
    person_key, created_at, updated_at, confidence_level,
    primary_phone, primary_document, primary_license, primary_full_name
)
select
    pg_temp.person_key(n),
    pg_temp.moment(pg_temp.lead_day(n), 14),
    pg_temp.moment(pg_temp.lead_day(n), 14),
    'LOW',
    pg_temp.phone(n),
    case when n % 2 = 0 then substr(pg_temp.licence(n), 2) end,
    case when n % 2 = 0 then pg_temp.licence(n) end,
    pg_temp.full_name(n)
from generate_series(60001, 60170) as driverless (n)
order by n;

insert into canon.drivers_index (
    driver_id, park_id, phone_norm, license_norm, plate_norm, full_name_norm,
    brand_norm, model_norm, hire_date, snapshot_date, created_at, updated_at
)
select
    driver_id,
    park_id,
    case when detail_source = 1 then case when n % 8 = 0 and length(phone) = 9 then '51' else '' end || phone end,
    case when detail_source = 1 and (licence <> '' or n % 2 = 0) then licence end,
    replace(pg_temp.plate(n), '-', ''),
    upper(translate(pg_temp.full_name(n), 'áéíóúÁñ', 'aeiouAn')),
    (array['TOYOTA', 'HYUNDAI', 'KIA', 'CHEVROLET', 'NISSAN'])[1 + pg_temp.pick(n, 33, 5)],
    (array['YARIS', 'ACCENT', 'RIO', 'SAIL', 'VERSA'])[1 + pg_temp.pick(n, 33, 5)],
    pg_temp.calendar(lead_day),
    date '2025-09-30',
    pg_temp.moment(lead_day, 12),
    timestamptz '2025-09-30 09:00:00+00'
from demo_driver
where is_linked and has_index_row
order by n;

insert into public.drivers (
    driver_id, park_id, first_name, last_name, middle_name, full_name, phone,
    license_number, license_normalized_number, hire_date, created_at
)
select
    driver_id,
    park_id,
    pg_temp.first_name(n),
    pg_temp.last_name(n, 2),
    pg_temp.last_name(n, 3),
    pg_temp.full_name(n),
    case when detail_source < 3 then pg_temp.spell_phone(phone, n) end,
    case when detail_source < 3 then pg_temp.spell_licence(known_licence, n % 2 * 2) end,
    case when detail_source < 3 and n % 33 > 0 then known_licence end,
    pg_temp.calendar(lead_day),
    pg_temp.moment(lead_day, 11) at time zone 'UTC'
from (
    select
        *,
        -- 206, 207: renewed since; the older licence is still here, drivers_index knows better
        case when n in (206, 207) then pg_temp.licence(70000 + n) else licence end as known_licence
    from demo_driver
) as driver
where has_public_row
order by n;


-- =====================================================================================
-- Leads: first who has which lead and who is linked to it, then rows and payloads
-- =====================================================================================

create temporary table demo_lead (
    lead_no int generated always as identity,
    source text not null,          -- cabinet, scouting, migration, referral
    n int not null,                -- whose name the lead carries
    lead_day int not null,
    event_person int,              -- number of lead_events.person_key
    link_person int,               -- number of the person the lead row is linked to
    phone text,
    licence text,
    named jsonb,                   -- where the payload names a driver; null: as usual
    is_odd boolean not null default false  -- the payload is `named`, whatever that is
);

-- Drivers with a lead. An event lacks its person_key when the last backfill missed it.
insert into demo_lead (source, n, lead_day, event_person, link_person, phone, licence)
select
    case when n < 1587 then 'cabinet' when n < 4137 then 'scouting' else 'migration' end,
    n,
    lead_day,
    case when pg_temp.pick(n, 40, 100) >= 3 then person_no end,
    person_no,
    pg_temp.spell_phone(phone, pg_temp.pick(n, 41, 5)),
    case when n % 20 > 0 then pg_temp.spell_licence(licence, pg_temp.pick(n, 42, 5)) end
from demo_driver
where n between 887 and 54900
order by n;

-- Some have a second lead: also migrated (two origins), or scouted and in the cabinet (one).
insert into demo_lead (source, n, lead_day, event_person, link_person, phone, licence)
select
    case when n <= 1006 then 'migration' else 'scouting' end,
    n, least(lead_day + 20, 91), n, n, phone, licence
from demo_driver
where n between 887 and 1056
order by n;

-- Persons with a lead who never became drivers.
insert into demo_lead (source, n, lead_day, event_person, link_person, phone, licence)
select
    case when n <= 60040 then 'cabinet' else 'scouting' end,
    n,
    pg_temp.lead_day(n),
    n,
    n,
    pg_temp.spell_phone(pg_temp.phone(n), n),
    case when n % 2 = 0 then pg_temp.licence(n) end
from generate_series(60001, 60160) as driverless (n)
order by n;

-- ------------------------------------------------------------------------------------
-- Relinkable, level 1: the payload names the driver, in each of the six places
-- ------------------------------------------------------------------------------------
insert into demo_lead (source, n, lead_day, named)
select
    'migration',
    n,
    lead_day,
    case
        when n <= 8 or n = 19 then jsonb_build_object('driver_id', driver_id)
        when n <= 10 then jsonb_build_object('driverId', driver_id)
        when n <= 12 then jsonb_build_object('driver', jsonb_build_object('driver_id', driver_id))
        when n <= 14 then jsonb_build_object('driver', jsonb_build_object('driverId', driver_id))
        when n <= 16 then jsonb_build_object('driver', jsonb_build_object('id', driver_id))
        else jsonb_build_object('id', driver_id)
    end
from demo_driver
where n <= 19
order by n;

-- A weaker lead beside a stronger one is left alone.
insert into demo_lead (source, n, lead_day, phone)
values ('scouting', 1, pg_temp.lead_day(1) + 2, pg_temp.phone(1));

-- ------------------------------------------------------------------------------------
-- Relinkable, level 2: licence and phone, licence alone, phone alone
-- ------------------------------------------------------------------------------------
insert into demo_lead (source, n, lead_day, phone, licence)
select
    'scouting',
    n,
    lead_day,
    case
        when n < 33 then pg_temp.spell_phone(phone, n)
        when n % 3 = 1 then pg_temp.phone(70000 + n)
        when n % 3 = 2 then ''
    end,
    pg_temp.spell_licence(licence, n + 1)
from demo_driver
where n between 21 and 46 and n <> 32
order by n;

insert into demo_lead (source, n, lead_day, phone, licence)
select
    case when n <= 54 then 'cabinet' else 'scouting' end,
    n,
    lead_day,
    pg_temp.spell_phone(phone, n + 1),
    case when n % 2 = 0 then pg_temp.licence(70000 + n) else '' end
from demo_driver
where n between 47 and 59
order by n;

-- More than one lead of the best level: all are links. A refused one beside a usable one
-- (the last row: linked to somebody else already) is not, and does not spoil it.
insert into demo_lead (source, n, lead_day, event_person, link_person, phone, licence)
values
    ('cabinet', 21, pg_temp.lead_day(21) + 1, null, null, pg_temp.phone(21), null),
    ('scouting', 33, pg_temp.lead_day(33) + 3, null, null, null, lower(pg_temp.licence(33))),
    ('scouting', 35, pg_temp.lead_day(35) + 1, 35, null, null, pg_temp.licence(35)),
    ('scouting', 34, pg_temp.lead_day(34) + 1, null, 60170, null, pg_temp.licence(34));

-- ------------------------------------------------------------------------------------
-- Refused: evidence that points to two persons
-- ------------------------------------------------------------------------------------
-- A shared phone. At 69 the licence would tell the two apart; the phone still names both.
insert into demo_lead (source, n, lead_day, phone, licence)
select
    case when n % 2 = 0 then 'cabinet' else 'scouting' end,
    n, lead_day, pg_temp.spell_phone(phone, n), case when n = 69 then licence end
from demo_driver
where n in (61, 62, 63, 64, 65, 67, 69)
order by n;

-- A shared licence.
insert into demo_lead (source, n, lead_day, phone, licence)
select 'scouting', n, lead_day, pg_temp.phone(70000 + n), pg_temp.spell_licence(licence, n)
from demo_driver
where n in (71, 72, 73, 74, 75, 76, 77, 79)
order by n;

-- The licence says one person, the phone another.
insert into demo_lead (source, n, lead_day, phone, licence)
select
    'scouting',
    n,
    lead_day,
    case
        when n < 85 then pg_temp.phone(n + 1)
        when n % 2 = 0 then pg_temp.phone(n + 10000)
        else pg_temp.phone(n)
    end,
    case when n < 85 or n % 2 = 0 then pg_temp.licence(n) else pg_temp.licence(n + 10000) end
from demo_driver
where n in (81, 83, 85, 86, 87, 88, 89, 90)
order by n;

-- The payload names two drivers of two persons.
insert into demo_lead (source, n, lead_day, named)
select
    'migration',
    n,
    lead_day,
    jsonb_build_object('driver_id', driver_id)
    || case
        when n < 95 then
            jsonb_build_object('driver', jsonb_build_object('id', pg_temp.driver_id(n + 1)))
        when n < 99 then jsonb_build_object('driverId', pg_temp.driver_id(n + 10000))
        else jsonb_build_object('id', pg_temp.driver_id(n + 10000))
    end
from demo_driver
where n in (91, 93, 95, 96, 97, 98, 99, 100)
order by n;

-- ------------------------------------------------------------------------------------
-- Refused: the lead is somebody else's
-- ------------------------------------------------------------------------------------
-- Its row is already linked to another person. (Four more share a phone with a scouted
-- driver, 107 to 110: that driver's own lead, linked as it should be, is all there is.)
insert into demo_lead (source, n, lead_day, link_person, licence)
select
    case when n <= 103 then 'migration' else 'scouting' end,
    n, lead_day, 60060 + n, case when n > 103 then licence end
from demo_driver
where n between 101 and 106
order by n;

-- The event's own person_key is another person's. (119 has a second driver, 120.)
insert into demo_lead (source, n, lead_day, event_person, phone, licence)
select
    case when n <= 114 or n = 119 then 'migration' when n <= 116 then 'cabinet' else 'scouting' end,
    n, lead_day, n + 10000, phone, licence
from demo_driver
where n between 111 and 119
order by n;

-- ------------------------------------------------------------------------------------
-- No evidence of level 1 or 2
-- ------------------------------------------------------------------------------------
-- Weak: only the event's person_key says so. The phone is a stranger's.
insert into demo_lead (source, n, lead_day, event_person, phone, licence)
select
    case when n % 4 = 0 then 'cabinet' else 'scouting' end,
    n, lead_day, n, pg_temp.phone(70000 + n), ''
from demo_driver
where n between 123 and 182
order by n;

-- Named, but by a source that is no lead source.
insert into demo_lead (source, n, lead_day, event_person)
select 'referral', n, lead_day, case when n = 186 then n end
from demo_driver
where n between 183 and 186
order by n;

-- An empty licence equals no empty licence, seven digits no seven digits, and the licence
-- that public.drivers still shows for 206 and 207 is not theirs any more.
insert into demo_lead (source, n, lead_day, phone, licence)
select
    'scouting',
    70000 + n,
    lead_day,
    case when n between 200 and 205 then phone else pg_temp.phone(71000 + n) end,
    case
        when n >= 206 then pg_temp.licence(70000 + n)
        when n < 200 and n % 2 = 0 then '-'
        else ''
    end
from demo_driver
where n between 190 and 207
order by n;

-- Payloads that say nothing, of nobody's leads; the fourth names an orphan, in an array.
insert into demo_lead (source, n, lead_day, named, is_odd)
select
    (array['scouting', 'migration', 'cabinet'])[1 + odd.no % 3],
    72000 + odd.no, odd.no * 3, odd.payload, true
from (
    values
    (1, null::jsonb), (2, 'null'), (3, '[]'),
    (4, jsonb_build_array(jsonb_build_object('driver_id', pg_temp.driver_id(208)))),
    (5, '"sin datos"'), (6, '4711'), (7, 'true'), (8, '{}'),
    (9, '{"driver_id": null}'), (10, '{"driver_id": ""}'), (11, '{"driver_id": 4711}'),
    (12, '{"driverId": 90210}'), (13, '{"driver": "Juan Quispe"}'), (14, '{"driver": []}'),
    (15, '{"driver": {"id": 77}}'), (16, '{"driver": {"driver_id": null}}'), (17, '{"id": 12}'),
    (18, '{"id": "12"}'), (19, '{"driver_license": null, "driver_phone": ""}'),
    (20, '{"driver_license": "---", "driver_phone": "no tiene"}'),
    (21, jsonb_build_object('driver_id', md5('driver nobody knows'))),
    (22, '{"driver_id": "n/a", "driver_name": "Sin nombre"}')
) as odd (no, payload)
order by odd.no;

-- The same among leads that are linked: these count as leads, whatever their payload.
update demo_lead
set
    is_odd = true,
    named = case n % 4 when 0 then '[]'::jsonb when 1 then '"migrado"' when 2 then '2025' end
where source = 'migration' and n between 20001 and 20040;

-- Referrals of drivers who have a lead: events and links of a source that is no lead source.
insert into demo_lead (source, n, lead_day, event_person, link_person)
select 'referral', n, least(lead_day + 5, 91), n, case when n % 2 = 0 then n end
from demo_driver
where n between 1101 and 1200 or n between 30001 and 30020
order by n;

-- Cabinet and scouting leads that nobody could match fill up the quarter's totals.
insert into demo_lead (source, n, lead_day, phone, licence)
select
    stranger.source,
    stranger.n,
    pg_temp.pick(stranger.n, 43, 92),
    pg_temp.spell_phone(pg_temp.phone(stranger.n), stranger.n),
    case when stranger.n % 3 > 0 then pg_temp.licence(stranger.n) end
from (
    select 'cabinet' as source, 73000 + i as n
    from generate_series(1, 849 - (select count(*)::int from demo_lead where source = 'cabinet')) as s (i)
    union all
    select 'scouting', 74000 + i
    from generate_series(1, 3000 - (select count(*)::int from demo_lead where source = 'scouting')) as s (i)
) as stranger
order by stranger.n;

-- ------------------------------------------------------------------------------------
-- Rows and payloads
-- ------------------------------------------------------------------------------------
create temporary table demo_row as
with numbered as (
    select
        *,
        (row_number() over (partition by source order by lead_day, lead_no))::int as id,
        pg_temp.full_name(n) as driver_name,
        1 + pg_temp.pick(n, 44, 60) as scout_no,
        'Scout ' || pg_temp.full_name(80000 + pg_temp.pick(n, 44, 60)) as scout_name
    from demo_lead
)

select
    *,
    case source
        when 'cabinet' then 'module_ct_cabinet_leads'
        when 'scouting' then 'module_ct_scouting_daily'
        when 'migration' then 'module_ct_migrations'
        else 'module_ct_referrals'
    end as source_table,
    case source when 'cabinet' then md5('cabinet-lead-' || id) else id::text end as source_pk,
    case
        when is_odd then named
        when source = 'cabinet' then jsonb_build_object(
            'external_id', md5('cabinet-lead-' || id),
            'first_name', pg_temp.first_name(n),
            'last_name', pg_temp.last_name(n, 2),
            'park_phone', phone,
            'asset_plate_number', pg_temp.plate(n),
            'matched_by', case when link_person is not null then 'phone' end,
            'match_meta', case
                when link_person between 887 and 55200 and n % 2 = 0
                    then jsonb_build_object('driver_id', pg_temp.driver_id(n))
                else '{}'
            end
        )
        when source = 'scouting' then jsonb_build_object(
            'driver_name', driver_name,
            'driver_phone', phone,
            'driver_license', licence,
            'acquisition_method',
            (array['onsite', 'call', 'social', 'cabinet'])[1 + pg_temp.pick(n, 45, 4)],
            'matching_evidence', case
                when link_person is not null then '{"phone_match": true}'::jsonb else '{}'
            end,
            'needs_identity_link', link_person is null
        )
        when source = 'migration' then coalesce(
            named, jsonb_build_object('driver_id', pg_temp.driver_id(n))
        ) || jsonb_build_object(
            'driver_name', driver_name,
            'scout_name', scout_name,
            'hire_date', pg_temp.calendar(lead_day)::text,
            'origin_tag', 'fleet_migration'
        )
        else jsonb_build_object(
            'driver_id', pg_temp.driver_id(n),
            'driver_name', driver_name,
            'referred_by', pg_temp.full_name(81000 + n)
        )
    end
    -- A bare `id` is as a rule the lead's own.
    || case
        when is_odd or source not in ('cabinet', 'scouting') or n % 10 > 0 then '{}'
        when source = 'cabinet' then jsonb_build_object('id', md5('cabinet-lead-' || id))
        else jsonb_build_object('id', id)
    end as payload
from numbered;

-- `||` would turn a scalar into an array; odd payloads stay what they are.
update demo_row set payload = named where is_odd;

insert into public.module_ct_cabinet_leads (
    id, external_id, lead_created_at, first_name, last_name, park_phone, asset_plate_number
)
select
    id, source_pk, pg_temp.moment(lead_day, 13), pg_temp.first_name(n), pg_temp.last_name(n, 2),
    phone, pg_temp.plate(n)
from demo_row
where source = 'cabinet'
order by id;

insert into public.module_ct_scouting_daily (
    id, registration_date, scout_id, driver_name, driver_phone, driver_license, acquisition_method
)
select
    id, pg_temp.calendar(lead_day), scout_no, driver_name, phone, licence,
    coalesce(payload ->> 'acquisition_method', 'onsite')
from demo_row
where source = 'scouting'
order by id;

insert into public.module_ct_migrations (id, driver_id, driver_name, scout_name, hire_date)
select
    id, case when n <= 60240 then pg_temp.driver_id(n) end, driver_name, scout_name,
    pg_temp.calendar(lead_day)
from demo_row
where source = 'migration'
order by id;

select
    setval('public.module_ct_cabinet_leads_id_seq', (select max(id) from public.module_ct_cabinet_leads)),
    setval('public.module_ct_scouting_daily_id_seq', (select max(id) from public.module_ct_scouting_daily)),
    setval('public.module_ct_migrations_id_seq', (select max(id) from public.module_ct_migrations));

insert into observational.lead_events (
    source_table, source_pk, event_date, person_key, scout_id, payload_json, created_at
)
select
    source_table,
    source_pk,
    pg_temp.calendar(lead_day),
    pg_temp.person_key(event_person),
    case when source in ('scouting', 'migration') then scout_no end,
    payload,
    pg_temp.moment(lead_day, 15)
from demo_row
order by lead_day, lead_no;


-- =====================================================================================
-- Identity links: drivers, leads, and a few of a source that is no lead source
-- =====================================================================================

insert into ops.ingestion_runs (started_at, completed_at, status, stats, error_message, job_type)
select
    pg_temp.moment(week * 7 - 45, 6),
    case when week <> 9 then pg_temp.moment(week * 7 - 45, 7) end,
    case when week = 9 then 'FAILED' else 'COMPLETED' end::public.ingestionstatus,
    '{}',
    case when week = 9 then 'canceling statement due to statement timeout' end,
    'identity_run'
from generate_series(0, 19) as weeks (week)
order by week;

-- A second driver of a person is linked later than the first, so "latest" is one driver.
insert into canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
    confidence_level, evidence, linked_at, run_id
)
select
    person_key,
    'drivers',
    driver_id,
    pg_temp.moment(lead_day, 0),
    (array['driver_direct', 'R1_PHONE_EXACT', 'R3_PLATE_EXACT_NAME_SIMILAR'])[grade],
    (array[100, 85, 60])[grade],
    (array['HIGH', 'MEDIUM', 'LOW'])[grade]::public.confidencelevel,
    jsonb_build_object('park_id', park_id),
    pg_temp.moment(lead_day, 16) + (case when n > person_no then 24 * 30 else 0 end) * interval '1 hour',
    least(20, 1 + (lead_day + 45) / 7)
from (
    select
        *,
        case
            when pg_temp.pick(n, 50, 100) < 85 then 1
            when n <= 60 or pg_temp.pick(n, 50, 100) < 97 then 2
            else 3
        end as grade
    from demo_driver
) as driver
where is_linked
order by n;

insert into canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
    confidence_level, evidence, linked_at, run_id
)
select
    pg_temp.person_key(link_person),
    source_table,
    source_pk,
    pg_temp.moment(lead_day, 0),
    case source
        when 'migration' then 'driver_direct'
        when 'cabinet' then 'R1_PHONE_EXACT'
        when 'scouting' then case when n % 3 = 0 then 'R2_LICENSE_EXACT' else 'R1_PHONE_EXACT' end
        else 'referral_code'
    end,
    case when source = 'migration' then 100 when n % 3 = 0 then 95 else 85 end,
    case
        when source = 'migration' or n % 3 = 0 then 'HIGH' else 'MEDIUM'
    end::public.confidencelevel,
    jsonb_build_object('name', driver_name),
    pg_temp.moment(lead_day, 17),
    least(20, 1 + (lead_day + 45) / 7)
from demo_row
where link_person is not null
order by lead_day, lead_no;

-- Three orphans have a link to a referral: that is no lead.
insert into canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
    confidence_level, linked_at
)
select
    person_key, 'module_ct_referrals', 'code-' || n, pg_temp.moment(lead_day, 0),
    'referral_code', 70, 'LOW', pg_temp.moment(lead_day, 18)
from demo_driver
where n between 187 and 189
order by n;

insert into observational.lead_ledger (
    person_key, attributed_source, attributed_scout_id, attribution_rule, attribution_score,
    confidence_level, evidence_json, decision_status, updated_at
)
select
    pg_temp.person_key(event_person),
    case
        when n between 1101 and 1150 then 'referral'
        when n = 186 then null
        when n < 4137 then 'cabinet'
        else 'fleet_migration'
    end,
    case when n >= 1587 then 1 + pg_temp.pick(n, 44, 60) end,
    'A_latest_lead',
    60 + pg_temp.pick(n, 51, 4000) / 100.0,
    (array['high', 'medium', 'low'])[1 + pg_temp.pick(n, 52, 3)]::public.attributionconfidence,
    '{}',
    (array['assigned', 'assigned', 'unassigned', 'conflict'])[1 + pg_temp.pick(n, 53, 4)]
    ::public.decisionstatus,
    pg_temp.moment(lead_day, 19)
from (
    select n, event_person, min(lead_day) as lead_day
    from demo_row
    where
        event_person = n
        and (n <= 186 or (n between 887 and 60040 and (pg_temp.pick(n, 54, 10) = 0 or n < 3200)))
        and n not between 1170 and 1200  -- referred and never attributed: origin unknown
    group by n, event_person
) as attributed
order by n;


-- =====================================================================================
-- Trips: one export a day, appended
-- =====================================================================================

-- The lateral subquery (kept apart by offset 0) makes the day the outer loop: rows arrive in
-- the order of dates without a sort.
insert into public.summary_daily (
    driver_id, date_file, count_orders_completed, sum_work_time_seconds
)
select
    active.driver_id,
    days.date_file,
    active.orders,
    case when active.activity = 'offline' then 0 else 2400 + active.orders * 1260 + active.key % 1800 end
from (
    select day, to_char(pg_temp.calendar(day)::timestamp, 'DD-MM-YYYY') as date_file
    from generate_series(0, 91) as dates (day)
    offset 0
) as days
cross join lateral (
    select
        driver_id,
        activity,
        n * 92 + days.day as key,
        orders_min + pg_temp.pick(n * 92 + days.day, 60, orders_spread) as orders
    from demo_driver
    where
        days.day between first_day and last_day
        and activity <> 'absent'
        -- the first day always counts, so that everyone but the idle has a trip
        and (days.day = first_day or pg_temp.pick(n * 92 + days.day, 61, 1000) < days_per_mille)
    offset 0
) as active;

-- Some drive for two parks, at times on the same day: that export came later.
insert into public.summary_daily (
    driver_id, date_file, count_orders_completed, sum_work_time_seconds
)
select
    driver_id,
    to_char(pg_temp.calendar(day)::timestamp, 'DD-MM-YYYY'),
    1 + pg_temp.pick(n * 92 + day, 62, 4),
    3600
from demo_driver
cross join lateral generate_series(first_day, last_day, 3) as dates (day)
where activity in ('regular', 'steady') and n % 40 = 1
order by day, n;

-- What a hand-made export contains besides.
insert into public.summary_daily (
    driver_id, date_file, count_orders_completed, sum_work_time_seconds
)
select pg_temp.driver_id(900 + 1000 * copies.i), broken.date_file, 7, 14400
from (
    values
    ('31-02-2025'), ('2025-07-01'), (''), (null), ('00-08-2025'), ('sin fecha'), ('32-13-2025')
) as broken (date_file)
cross join generate_series(1, 5) as copies (i)
union all
select pg_temp.driver_id(950 + 1000 * i), '15-07-2025', null, null from generate_series(1, 3) as s (i)
union all
select null, '16-07-2025', 4, 7200 from generate_series(1, 2) as s (i)
union all
select pg_temp.driver_id(1), '31-02-2025', 5, 9000;


-- =====================================================================================
-- Payment rules and the Yango ledger
-- =====================================================================================

-- Both tables number from 1: rule 5 exists twice and pays two different parties.
insert into ops.scout_payment_rules (
    origin_tag, window_days, milestone_trips, amount, currency, valid_from, valid_to,
    is_active, notes, created_at, updated_at
)
select
    origin_tag, window_days, milestone_trips, amount, 'PEN', valid_from::date, valid_to::date,
    is_active, notes, timestamptz '2025-05-01 12:00:00+00', timestamptz '2025-05-01 12:00:00+00'
from (
    values
    (1, 'cabinet', 7, 1, 5.00, '2025-05-01', null, true, null),
    (2, 'cabinet', 7, 5, 20.00, '2025-05-01', null, true, null),
    (3, 'cabinet', 7, 25, 50.00, '2025-05-01', null, true, null),
    (4, 'fleet_migration', 30, 1, 10.00, '2025-05-01', null, true, null),
    (5, 'fleet_migration', 30, 5, 30.00, '2025-05-01', '2025-07-31', true, 'until July'),
    (6, 'fleet_migration', 30, 5, 35.00, '2025-08-01', null, true, 'since August'),
    (7, 'fleet_migration', 30, 25, 80.00, '2025-05-01', null, true, null),
    (8, 'cabinet', 14, 25, 60.00, '2025-05-01', null, false, 'never approved'),
    (9, 'cabinet', 7, 5, 15.00, '2024-01-01', '2025-04-30', true, 'expired'),
    (10, 'fleet_migration', 14, 25, 90.00, '2025-10-01', null, true, 'next quarter')
) as rules (id, origin_tag, window_days, milestone_trips, amount, valid_from, valid_to, is_active, notes)
order by id;

insert into ops.partner_payment_rules (
    origin_tag, window_days, milestone_trips, amount, currency, valid_from, valid_to,
    is_active, notes, created_at, updated_at
)
select
    origin_tag, window_days, milestone_trips, amount, 'PEN', valid_from::date, valid_to::date,
    is_active, notes, timestamptz '2025-05-01 12:00:00+00', timestamptz '2025-05-01 12:00:00+00'
from (
    values
    (1, 'cabinet', 14, 1, 25.00, '2025-05-01', null, true, 'Yango'),
    (2, 'cabinet', 14, 5, 35.00, '2025-05-01', null, true, 'Yango'),
    (3, 'cabinet', 14, 25, 100.00, '2025-05-01', null, true, 'Yango'),
    (4, 'cabinet', 14, 25, 120.00, '2024-01-01', '2025-04-30', true, 'expired'),
    (5, 'fleet_migration', 30, 25, 40.00, '2025-05-01', null, true, null),
    (6, 'fleet_migration', 7, 5, 20.00, '2025-05-01', null, false, 'withdrawn'),
    (7, 'cabinet', 30, 25, 110.00, '2025-10-01', null, true, 'next quarter')
) as rules (id, origin_tag, window_days, milestone_trips, amount, valid_from, valid_to, is_active, notes)
order by id;

-- One row per driver and weekly snapshot; now and then the latest says something new.
insert into ops.yango_payments_ledger (
    driver_id, person_key, identity_status, match_rule, match_confidence, latest_snapshot_at
)
select
    driver.driver_id,
    case when status <> 'ambiguous' then driver.person_key end,
    status,
    case status when 'confirmed' then 'source_pk' when 'enriched' then 'name_unique' end,
    case status when 'confirmed' then 'high' when 'enriched' then 'medium' when 'ambiguous' then 'low' end,
    pg_temp.moment(70 + snapshot * 7, 4)
from demo_driver as driver
cross join lateral generate_series(
    1, case when pg_temp.pick(n, 70, 6) = 0 then 3 else 1 end
) as snapshots (snapshot)
cross join lateral (
    select case
        when n <= 60 then 'confirmed'
        when pg_temp.pick(n * 3 + snapshot, 71, 100) < 70 then 'confirmed'
        when pg_temp.pick(n * 3 + snapshot, 71, 100) < 88 then 'enriched'
        when pg_temp.pick(n * 3 + snapshot, 71, 100) < 95 then 'ambiguous'
    end as status
) as statuses
where driver.is_linked and pg_temp.pick(n, 72, 100) < case when n < 4137 then 60 else 8 end
order by snapshot, n;


-- Nothing of the making stays behind in the session.
drop table demo_row, demo_lead, demo_driver;
