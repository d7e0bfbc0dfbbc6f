-- A quarter (2025-07-01 to 2025-09-30) of CT4 Identity before this project arrives: the demo's data.
--
-- Size and shape are production's; the cases are chosen so that every rule and every refusal
-- occurs. Nothing is random and nothing depends on the clock, the time zone or the server's
-- version: the same rows come out every time, so the numbers below can be asserted.
--
-- 55,200 linked drivers, 54,029 of them with trips; 12.0 million orders in 1.13 million rows; 849 cabinet,
-- 3,000 scouting and 50,927 migration leads. 886 orphan drivers of 881 persons, of which the first fix
--     relinks 60 drivers of 57 persons, by 60 links: driver_id_exact 20, both_exact 12,
--         license_exact 14, phone_exact 14 (a driver counts under the best strategy of the person)
--     quarantines 826 drivers: no_lead_no_events 766 (60 of them with weak evidence only) and
--         no_lead_has_events_repair_failed 60: shared phone 10, shared licence 10, licence and phone
--         of two persons 10, two drivers named 10, lead linked to somebody else 10 (4 of these share
--         that person's phone), event of somebody else 10
-- 46 of the 57 persons then have at least 5 trips in the week from their lead on.
--
-- Who is who, by number (a driver's id is md5('driver-' || number)):
--        1 ..    60   orphans that a fix relinks
--       61 ..   120   orphans with evidence that must be refused
--      121 ..   886   orphans without evidence
--      887 .. 55200   drivers with a lead: 887 cabinet, 1587 scouting, 4137 and up migration
--    54901 .. 55200   among these, the second drivers of a person
--    60001 .. 60170   persons without a driver, nearly all with a lead
--    60201 .. 60240   drivers with trips and without any link
--    70001 and up     strangers: names, phones and licences that match nobody

-- ===== Helpers: everything is a function of a row number ==================================
-- PostgreSQL inlines a function only if it is declared no stricter than its body, and `text || int`
-- is merely stable: hence the casts, and a third of the running time.

-- A number below `size` that looks random. hashint4extended is what hash partitioning stands
-- on, so its results do not change between major versions.
create function pg_temp.pick(n int, salt int, size int) returns int language sql immutable as
    $$ select ((hashint4extended(n, salt) & 1125899906842623) % size)::int $$;
create function pg_temp.driver_id(n int) returns text language sql immutable as
    $$ select md5('driver-' || n::text) $$;
create function pg_temp.person_key(n int) returns uuid language sql immutable as
    $$ select md5('person-' || n::text)::uuid $$;

-- Multiplication by a number coprime to the modulus maps different numbers to different values:
-- two drivers share a phone or a licence only where a case below says so. Some orphans have a
-- phone of seven digits, which is none, or an empty licence.
create function pg_temp.phone(n int) returns text language sql immutable as $$
    select case when n between 200 and 205 then '5550' || n::text else
        (900000000 + (n * 61803399::bigint + 12345678) % 100000000)::text end
$$;
create function pg_temp.licence(n int) returns text language sql immutable as $$
    select case when n between 190 and 199 or n between 1400 and 1420 then '' else
        substr('QQQQQQHKMABC', 1 + n % 12, 1)
        || (40000000 + (n * 24157817::bigint + 7654321) % 40000000)::text end
$$;

-- The same phone and licence as different people type them.
create function pg_temp.spell_phone(phone text, style int) returns text language sql immutable as $$
    select case case when length(phone) = 9 then style % 5 else 0 end
        when 0 then phone when 2 then '51' || phone
        when 1 then '+51 ' || substr(phone, 1, 3) || ' ' || substr(phone, 4, 3) || ' ' || substr(phone, 7)
        when 3 then substr(phone, 1, 3) || '-' || substr(phone, 4, 3) || '-' || substr(phone, 7)
        else '(+51) ' || phone
    end
$$;
create function pg_temp.spell_licence(licence text, style int) returns text language sql immutable as $$
    select case style % 5
        when 0 then licence when 1 then lower(licence)
        when 2 then substr(licence, 1, 1) || '-' || substr(licence, 2)
        when 3 then substr(licence, 1, 1) || ' ' || substr(licence, 2, 4) || ' ' || substr(licence, 6)
        else ' ' || lower(substr(licence, 1, 1)) || '-' || substr(licence, 2) || ' '
    end
$$;

create function pg_temp.first_name(n int) returns text language sql immutable as $$
    select (array[
        'Juan Carlos', 'José Luis', 'Luis Alberto', 'Miguel Ángel', 'Jorge', 'Carlos Enrique',
        'Víctor Hugo', 'César Augusto', 'Percy', 'Wilmer', 'Edwin', 'Julio César', 'Raúl', 'Walter',
        'Richard', 'Henry', 'Jhon', 'Elmer', 'Freddy', 'Marco Antonio', 'Pedro Pablo', 'Rosa María',
        'María Elena', 'Carmen', 'Yesenia', 'Milagros', 'Gladys', 'Fiorella'
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
create function pg_temp.full_name(n int) returns text language sql immutable as
    $$ select pg_temp.first_name(n) || ' ' || pg_temp.last_name(n, 2) || ' ' || pg_temp.last_name(n, 3) $$;
create function pg_temp.plate(n int) returns text language sql immutable as $$
    select chr(65 + pg_temp.pick(n, 4, 6)) || pg_temp.pick(n, 5, 10)::text || chr(65 + pg_temp.pick(n, 6, 26))
        || '-' || (100 + pg_temp.pick(n, 7, 900))::text
$$;
create function pg_temp.scout(n int) returns int language sql immutable as
    $$ select 1 + pg_temp.pick(n, 9, 60) $$;

-- Day 0 is 2025-07-01. Leads begin in mid-May; an orphan's early enough for a week of trips.
create function pg_temp.lead_day(n int) returns int language sql immutable as
    $$ select case when n <= 886 then pg_temp.pick(n, 8, 75) else pg_temp.pick(n, 8, 134) - 45 end $$;
create function pg_temp.calendar(day int) returns date language sql immutable as
    $$ select date '2025-07-01' + day $$;

-- Hours, not days: adding days to a timestamptz depends on the session's time zone.
create function pg_temp.moment(day int, hour int) returns timestamptz language sql stable as
    $$ select timestamptz '2025-07-01 00:00:00+00' + (day * 24 + hour) * interval '1 hour' $$;

-- A driver's id at `driver_id`, at 'driver.id' (in the nested object), and so on.
create function pg_temp.naming(place text, n int) returns jsonb language sql stable as $$
    select case when place is null then '{}'
        when place like 'driver.%' then
            jsonb_build_object('driver', jsonb_build_object(substr(place, 8), pg_temp.driver_id(n)))
        else jsonb_build_object(place, pg_temp.driver_id(n))
    end
$$;

-- ===== Drivers: who they are, where their licence and phone are known, how much they drive =
create temporary table demo_driver as
with identities as (
    select
        n, pg_temp.lead_day(n) as lead_day,
        -- n - 1: the orphan before is the same person, or has the same phone or licence. Others
        -- share these with a driver who was scouted (+ 2000) or migrated (+ 10000).
        case when n in (20, 32, 60, 120, 122) then n - 1 when n between 54901 and 55200 then n - 1000
            else n end as person_no,
        case when n in (66, 68, 70) then n - 1 when n between 61 and 64 then n + 10000
            when n between 107 and 110 then n + 2000 else n end as phone_no,
        case when n in (78, 80) then n - 1 when n between 71 and 76 then n + 10000
            else n end as licence_no,
        -- the first to know licence and phone: drivers_index, public.drivers, identity_registry
        case when n <= 120 then case n % 10 when 3 then 2 when 7 then 3 else 1 end
            when n <= 210 or pg_temp.pick(n, 10, 100) < 90 then 1
            when pg_temp.pick(n, 10, 100) < 99 then 2 else 3 end as known_from,
        case
            when n <= 60 then case when n % 6 = 0 then 'occasional' else 'steady' end
            when n > 60200 then 'light'
            when pg_temp.pick(n, 11, 1000) < 9 then 'absent'       -- not in summary_daily
            when pg_temp.pick(n, 11, 1000) < 12 then 'offline'     -- rows, but no work
            when pg_temp.pick(n, 11, 1000) < 22 then 'waiting'     -- work, but no trip
            when pg_temp.pick(n, 11, 1000) < 90 then 'occasional'  -- 1 to 4 trips
            when pg_temp.pick(n, 11, 1000) < 220 then 'light'      -- 6 to 24 trips
            else 'regular'
        end as activity
    from (select generate_series(1, 55200) union all select generate_series(60201, 60240)) as drivers (n)
),

starts as (
    select
        *, case
            when activity = 'steady' then lead_day
            when n > 886 and pg_temp.pick(n, 12, 5) = 0 then 0  -- drove before the lead
            else greatest(0, least(91, lead_day + pg_temp.pick(n, 13, 5)))
        end as first_day
    from identities
)

select
    n, person_no, lead_day, activity, first_day, known_from,
    pg_temp.driver_id(n) as driver_id, pg_temp.person_key(person_no) as person_key,
    pg_temp.phone(phone_no) as phone, pg_temp.licence(licence_no) as licence,
    md5('park-' || pg_temp.pick(n, 14, 12)) as park_id,
    least(91, first_day + case activity
        when 'occasional' then pg_temp.pick(n, 15, 2)
        when 'regular' then case when pg_temp.pick(n, 16, 5) = 0 then 7 + pg_temp.pick(n, 15, 24) else 91 end
        when 'steady' then 91 else 2 end) as last_day,
    case activity when 'regular' then 225 + pg_temp.pick(n, 17, 400) when 'steady' then 900 else 1000
        end as days_per_mille,
    case activity when 'regular' then 3 + pg_temp.pick(n, 18, 9) when 'steady' then 4
        when 'occasional' then 1 when 'light' then 2 else 0 end as orders_min,
    case when activity in ('regular', 'steady') then 9
        when activity = 'occasional' then 2 when activity = 'light' then 7 else 1 end as orders_spread
from starts;

-- ===== Persons and drivers ================================================================
insert into canon.identity_registry (person_key, created_at, updated_at, confidence_level,
    primary_phone, primary_document, primary_license, primary_full_name, flags)
select
    pg_temp.person_key(n), pg_temp.moment(lead_day, 14), pg_temp.moment(greatest(lead_day, 60), 20),
    (array['HIGH', 'HIGH', 'HIGH', 'MEDIUM', 'LOW'])[1 + pg_temp.pick(n, 30, 5)]::public.confidencelevel,
    case when is_filled then phone end, case when is_filled then substr(licence, 2) end,
    case when is_filled then licence end, pg_temp.full_name(n),
    case when pg_temp.pick(n, 31, 20) = 0 then '{"needs_review": true}'::jsonb end
from (
    select n, lead_day, phone, licence, known_from = 3 or pg_temp.pick(n, 32, 10) < 6 as is_filled
    from demo_driver where n <= 55200 and n = person_no
    union all
    select n, pg_temp.lead_day(n), pg_temp.phone(n), pg_temp.licence(n), n % 2 = 0
    from generate_series(60001, 60170) as driverless (n)
) as person order by n;

-- A source that does not know a driver's licence and phone has no row, or one without them.
insert into canon.drivers_index (driver_id, park_id, phone_norm, license_norm, plate_norm,
    full_name_norm, brand_norm, model_norm, hire_date, snapshot_date, created_at, updated_at)
select
    driver_id, park_id,
    case when known_from = 1 then case when n % 8 = 0 and n > 886 then '51' else '' end || phone end,
    case when known_from = 1 and (licence <> '' or n % 2 = 0) then licence end,
    replace(pg_temp.plate(n), '-', ''), upper(translate(pg_temp.full_name(n), 'áéíóúÁñ', 'aeiouAn')),
    (array['TOYOTA', 'HYUNDAI', 'KIA', 'CHEVROLET', 'NISSAN'])[1 + pg_temp.pick(n, 33, 5)],
    (array['YARIS', 'ACCENT', 'RIO', 'SAIL', 'VERSA'])[1 + pg_temp.pick(n, 33, 5)],
    pg_temp.calendar(lead_day), date '2025-09-30',
    pg_temp.moment(lead_day, 12), timestamptz '2025-09-30 09:00:00+00'
from demo_driver where n <= 55200 and (known_from = 1 or n % 20 < 10) order by n;

insert into public.drivers (driver_id, park_id, first_name, last_name, middle_name, full_name,
    phone, license_number, license_normalized_number, hire_date, created_at)
select
    driver_id, park_id, pg_temp.first_name(n), pg_temp.last_name(n, 2), pg_temp.last_name(n, 3),
    pg_temp.full_name(n), case when known_from < 3 then pg_temp.spell_phone(phone, n) end,
    case when known_from < 3 then pg_temp.spell_licence(old_licence, n % 2 * 2) end,
    case when known_from < 3 and n % 33 > 0 then old_licence end,
    pg_temp.calendar(lead_day), pg_temp.moment(lead_day, 11) at time zone 'UTC'
from (
    -- renewed since: the older licence is still here, drivers_index knows better
    select *, case when n in (206, 207) then pg_temp.licence(70000 + n) else licence end as old_licence
    from demo_driver
) as driver
where case known_from when 1 then n <= 210 or n % 200 > 0 when 2 then true else n % 40 < 20 end order by n;

-- ===== Leads: first who has which lead and who is linked to it, then rows and payloads ====
create temporary table demo_lead (
    lead_no int generated always as identity,
    source text,            -- cabinet, scouting, migration, referral
    n int,                  -- whose name the lead carries
    lead_day int, phone text, licence text,
    event_person int,       -- number of the person in lead_events.person_key
    link_person int,        -- number of the person the lead row is linked to
    place text not null default 'driver_id',  -- where the payload of a migration names the driver
    other_place text, other_driver int,       -- where it names a second one, and whom
    is_odd boolean not null default false, odd_payload jsonb  -- whatever the payload is instead
);

-- Drivers with a lead; an event lacks its person_key where the last backfill missed it.
insert into demo_lead (source, n, lead_day, event_person, link_person, phone, licence)
select
    case when n < 1587 then 'cabinet' when n < 4137 then 'scouting' else 'migration' end,
    n, lead_day, case when pg_temp.pick(n, 40, 100) >= 3 then n end, n,
    pg_temp.spell_phone(phone, pg_temp.pick(n, 41, 5)),
    case when n % 20 > 0 then pg_temp.spell_licence(licence, pg_temp.pick(n, 42, 5)) end
from demo_driver where n between 887 and 54900 order by n;

-- Some have a second lead: also migrated (two origins), or also scouted (one).
insert into demo_lead (source, n, lead_day, event_person, link_person, phone, licence)
select
    case when n <= 1006 then 'migration' else 'scouting' end,
    n, least(lead_day + 20, 91), n, n, phone, licence
from demo_driver where n between 887 and 1056
union all
-- Persons with a lead who never became drivers.
select
    case when n <= 60040 then 'cabinet' else 'scouting' end,
    n, pg_temp.lead_day(n), n, n, pg_temp.spell_phone(pg_temp.phone(n), n), pg_temp.licence(n)
from generate_series(60001, 60160) as driverless (n) order by 2;

-- Orphans, case by case: which leads there are for the drivers first, first + step … last.
-- The columns from phone_of on name a driver or person relative to that driver: 0 is the driver,
-- 1 the next one, 10000 one with a migration of their own, 60000 and up a person without a driver,
-- 70000 and up a stranger, null nobody.
insert into demo_lead (source, n, lead_day, phone, licence, event_person, link_person, place,
    other_place, other_driver)
select
    source, n, pg_temp.lead_day(n), pg_temp.spell_phone(pg_temp.phone(n + phone_of), n + 1),
    pg_temp.spell_licence(pg_temp.licence(n + licence_of), n + 1),
    n + event_of, n + link_of, coalesce(place, 'driver_id'), other_place, n + other_of
from (
    values
    -- Relinkable, level 1: the payload names the driver, in each of the six places.
    (1, 8, 1, 'migration', null::int, null::int, null::int, null::int, 'driver_id', null, null::int),
    (9, 10, 1, 'migration', null, null, null, null, 'driverId', null, null),
    (11, 12, 1, 'migration', null, null, null, null, 'driver.driver_id', null, null),
    (13, 14, 1, 'migration', null, null, null, null, 'driver.driverId', null, null),
    (15, 16, 1, 'migration', null, null, null, null, 'driver.id', null, null),
    (17, 18, 1, 'migration', null, null, null, null, 'id', null, null),
    (19, 19, 1, 'migration', null, null, null, null, 'driver_id', null, null),
    -- A weaker lead beside a stronger one is left alone.
    (1, 1, 1, 'scouting', 0, null, null, null, null, null, null),
    -- Relinkable, level 2: licence and phone, licence only, phone only.
    (21, 31, 1, 'scouting', 0, 0, null, null, null, null, null),
    (33, 39, 1, 'scouting', 70000, 0, null, null, null, null, null),
    (40, 46, 1, 'scouting', null, 0, null, null, null, null, null),
    (47, 54, 1, 'cabinet', 0, null, null, null, null, null, null),
    (55, 59, 1, 'scouting', 0, 70000, null, null, null, null, null),
    -- More than one lead of the best level: all become links. One of them already carries the
    -- person_key. A refused one beside a usable one (34) does no harm.
    (21, 21, 1, 'cabinet', 0, null, null, null, null, null, null),
    (33, 33, 1, 'scouting', null, 0, null, null, null, null, null),
    (35, 35, 1, 'scouting', null, 0, 0, null, null, null, null),
    (34, 34, 1, 'scouting', null, 0, null, 60136, null, null, null),
    -- Refused: a shared phone. At 69 the licence would tell the two apart; the phone names both.
    (61, 64, 1, 'cabinet', 10000, null, null, null, null, null, null),
    (65, 67, 2, 'scouting', 0, null, null, null, null, null, null),
    (69, 69, 1, 'scouting', 0, 0, null, null, null, null, null),
    -- Refused: a shared licence.
    (71, 76, 1, 'scouting', 70000, 10000, null, null, null, null, null),
    (77, 79, 2, 'scouting', 70000, 0, null, null, null, null, null),
    -- Refused: the licence says one person, the phone another.
    (81, 83, 2, 'scouting', 1, 0, null, null, null, null, null),
    (85, 87, 1, 'scouting', 10000, 0, null, null, null, null, null),
    (88, 90, 1, 'scouting', 0, 10000, null, null, null, null, null),
    -- Refused: the payload names two drivers of two persons.
    (91, 93, 2, 'migration', null, null, null, null, 'driver_id', 'driver.id', 1),
    (95, 98, 1, 'migration', null, null, null, null, 'driver_id', 'driverId', 10000),
    (99, 100, 1, 'migration', null, null, null, null, 'driver_id', 'id', 10000),
    -- Refused: the lead row is already linked to another person. (So is that of 107 to 110: all
    -- they have is the lead of the scouted driver with whom they share a phone.)
    (101, 103, 1, 'migration', null, null, null, 60060, 'driver_id', null, null),
    (104, 106, 1, 'scouting', null, 0, null, 60060, null, null, null),
    -- Refused: the event's own person_key is another person's. (120 is the second driver of 119.)
    (111, 114, 1, 'migration', null, null, 10000, null, 'driver_id', null, null),
    (115, 116, 1, 'cabinet', 0, null, 10000, null, null, null, null),
    (117, 118, 1, 'scouting', null, 0, 10000, null, null, null, null),
    (119, 119, 1, 'migration', null, null, 10000, null, 'driver_id', null, null),
    -- No evidence: weak, only the event's person_key says so; the phone is a stranger's.
    (123, 162, 1, 'scouting', 70000, null, 0, null, null, null, null),
    (163, 182, 1, 'cabinet', 70000, null, 0, null, null, null, null),
    -- No evidence: named, but by a source that is no lead source.
    (183, 185, 1, 'referral', null, null, null, null, 'driver_id', null, null),
    (186, 186, 1, 'referral', null, null, 0, null, 'driver_id', null, null),
    -- No evidence: an empty licence equals no empty licence, seven digits no seven digits, and
    -- the licence that public.drivers still shows for 206 and 207 is not theirs any more.
    (190, 199, 1, 'scouting', 71000, 0, null, null, null, null, null),
    (200, 205, 1, 'scouting', 0, null, null, null, null, null, null),
    (206, 207, 1, 'scouting', 71000, 70000, null, null, null, null, null)
) as c (first, last, step, source, phone_of, licence_of, event_of, link_of, place, other_place, other_of)
cross join lateral generate_series(first, last, step) as numbers (n)
order by n, source, phone_of, licence_of, event_of, link_of;

-- Payloads that say nothing, of nobody's leads; number 4 names an orphan, but inside an array.
insert into demo_lead (source, n, lead_day, is_odd, odd_payload)
select (array['scouting', 'migration', 'cabinet'])[1 + no % 3], 72000 + no, no * 3, true, payload
from (
    values
    (1, null::jsonb), (2, 'null'), (3, '[]'), (4, jsonb_build_array(pg_temp.naming('driver_id', 208))),
    (5, '"sin datos"'), (6, '4711'), (7, 'true'), (8, '{}'),
    (9, '{"driver_id": null}'), (10, '{"driver_id": ""}'), (11, '{"driver_id": 4711}'),
    (12, '{"driverId": 90210}'), (13, '{"driver": "Juan Quispe"}'), (14, '{"driver": []}'),
    (15, '{"driver": {"id": 77}}'), (16, '{"driver": {"driver_id": null}}'), (17, '{"id": 12}'),
    (18, '{"id": "12"}'), (19, '{"driver_license": null, "driver_phone": ""}'),
    (20, '{"driver_license": "---", "driver_phone": "no tiene"}'), (21, '{"driver_id": "n/a"}'),
    (22, pg_temp.naming('driver_id', 72000))  -- a driver nobody knows
) as odd (no, payload)
order by no;

-- The same among leads that are linked: these count as leads, whatever their payload.
update demo_lead
set is_odd = true,
    odd_payload = case n % 4 when 0 then '[]'::jsonb when 1 then '"migrado"' when 2 then '2025' end
where source = 'migration' and n between 20001 and 20040;

-- Referrals of drivers who have a lead: a source that is no lead source, half of it linked.
insert into demo_lead (source, n, lead_day, event_person, link_person)
select 'referral', n, least(lead_day + 5, 91), n, case when n % 2 = 0 then n end
from demo_driver where n between 1101 and 1200 or n between 30001 and 30020 order by n;

-- Cabinet and scouting leads that nobody could match fill up the quarter's totals.
insert into demo_lead (source, n, lead_day, phone, licence)
select
    totals.source, stranger.n, pg_temp.pick(stranger.n, 43, 92),
    pg_temp.spell_phone(pg_temp.phone(stranger.n), stranger.n),
    case when stranger.n % 3 > 0 then pg_temp.licence(stranger.n) end
from (values ('cabinet', 73000, 849), ('scouting', 74000, 3000)) as totals (source, base, total)
cross join lateral generate_series(
    base + 1, base + total - (select count(*)::int from demo_lead where demo_lead.source = totals.source)
) as stranger (n)
order by stranger.n;

create temporary table demo_row as
with numbered as (
    select *, (row_number() over (partition by source order by lead_day, lead_no))::int as id
    from demo_lead
),

keyed as (
    select *, pg_temp.full_name(n) as name,
        'Scout ' || pg_temp.full_name(80000 + pg_temp.scout(n)) as scout_name,
        case source when 'cabinet' then md5('cabinet-lead-' || id) else id::text end as source_pk
    from numbered
)

select
    lead_no, source, id, source_pk, n, lead_day, event_person, link_person, phone, licence, name, scout_name,
    case source
        when 'cabinet' then 'module_ct_cabinet_leads' when 'scouting' then 'module_ct_scouting_daily'
        when 'migration' then 'module_ct_migrations' else 'module_ct_referrals'
    end as source_table,
    case when is_odd then odd_payload
        when source = 'cabinet' then jsonb_build_object(
            'external_id', source_pk,
            'first_name', pg_temp.first_name(n), 'last_name', pg_temp.last_name(n, 2),
            'park_phone', phone, 'asset_plate_number', pg_temp.plate(n),
            'matched_by', case when link_person is not null then 'phone' end,
            'match_meta', case when link_person < 60000 then pg_temp.naming('driver_id', n) else '{}' end
        )
        -- A bare `id` is as a rule the lead's own.
        || case when n % 10 = 0 then jsonb_build_object('id', source_pk) else '{}' end
        when source = 'scouting' then jsonb_build_object(
            'driver_name', name, 'driver_phone', phone, 'driver_license', licence,
            'acquisition_method', (array['onsite', 'call', 'social'])[1 + pg_temp.pick(n, 44, 3)],
            'matching_evidence', jsonb_build_object('phone_match', link_person is not null),
            'needs_identity_link', link_person is null
        )
        || case when n % 10 = 0 then jsonb_build_object('id', id) else '{}' end
        when source = 'migration' then jsonb_build_object(
            'driver_name', name, 'scout_name', scout_name,
            'hire_date', pg_temp.calendar(lead_day)::text, 'origin_tag', 'fleet_migration'
        )
        || pg_temp.naming(place, n) || pg_temp.naming(other_place, other_driver)
        else jsonb_build_object('driver_name', name) || pg_temp.naming(place, n)
    end as payload
from keyed;

insert into public.module_ct_cabinet_leads (id, external_id, lead_created_at, first_name, last_name,
    park_phone, asset_plate_number)
select
    id, source_pk, pg_temp.moment(lead_day, 13), pg_temp.first_name(n), pg_temp.last_name(n, 2),
    phone, pg_temp.plate(n)
from demo_row where source = 'cabinet' order by id;

insert into public.module_ct_scouting_daily (id, registration_date, scout_id, driver_name,
    driver_phone, driver_license, acquisition_method)
select
    id, pg_temp.calendar(lead_day), pg_temp.scout(n), name, phone, licence,
    coalesce(payload ->> 'acquisition_method', 'onsite')
from demo_row where source = 'scouting' order by id;

insert into public.module_ct_migrations (id, driver_id, driver_name, scout_name, hire_date)
select
    id, case when n < 70000 then pg_temp.driver_id(n) end, name, scout_name, pg_temp.calendar(lead_day)
from demo_row where source = 'migration' order by id;

-- The ids were given, so that they equal source_pk: the sequences must follow.
select setval('public.' || name || '_id_seq', ids.last_id)
from (select source_table as name, max(id) as last_id from demo_row group by source_table) as ids
where name <> 'module_ct_referrals';

insert into observational.lead_events (source_table, source_pk, event_date, person_key, scout_id,
    payload_json, created_at)
select
    source_table, source_pk, pg_temp.calendar(lead_day), pg_temp.person_key(event_person),
    case when source in ('scouting', 'migration') then pg_temp.scout(n) end,
    payload, pg_temp.moment(lead_day, 15)
from demo_row order by lead_day, lead_no;

-- ===== Identity links: drivers, leads, and a few of a source that is no lead source =======
insert into ops.ingestion_runs (started_at, completed_at, status, stats, error_message, job_type)
select
    pg_temp.moment(week * 7, 6), case when week <> 9 then pg_temp.moment(week * 7, 7) end,
    case when week = 9 then 'FAILED' else 'COMPLETED' end::public.ingestionstatus, '{}',
    case when week = 9 then 'canceling statement due to statement timeout' end, 'identity_run'
from generate_series(0, 13) as weeks (week) order by week;

-- A second driver of a person is linked a month later than the first: the latest is one driver.
insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule,
    match_score, confidence_level, evidence, linked_at)
select
    person_key, 'drivers', driver_id, pg_temp.moment(lead_day, 0),
    (array['driver_direct', 'R1_PHONE_EXACT', 'R3_PLATE_EXACT_NAME_SIMILAR'])[grade],
    (array[100, 85, 60])[grade], (array['HIGH', 'MEDIUM', 'LOW'])[grade]::public.confidencelevel,
    jsonb_build_object('park_id', park_id),
    pg_temp.moment(lead_day + case when n > person_no then 30 else 0 end, 16)
from demo_driver
cross join lateral (select pg_temp.pick(n, 50, 100) as dice) as thrown
cross join lateral (
    select case when dice < 85 then 1 when dice < 97 or n <= 60 then 2 else 3 end as grade
) as grades
where n <= 55200 order by n;

-- Three orphans (187 to 189) have a link to a referral: that is no lead.
insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule,
    match_score, confidence_level, evidence, linked_at, run_id)
select
    pg_temp.person_key(link_person), source_table, source_pk, pg_temp.moment(lead_day, 0),
    (array['driver_direct', 'R2_LICENSE_EXACT', 'R1_PHONE_EXACT', 'referral_code'])[grade],
    (array[100, 95, 85, 70])[grade],
    (array['HIGH', 'HIGH', 'MEDIUM', 'LOW'])[grade]::public.confidencelevel,
    jsonb_build_object('name', name), pg_temp.moment(lead_day, 17),
    case when n < 4137 and lead_day > 0 then 1 + lead_day / 7 end
from (
    select
        lead_day, lead_no, link_person, source_table, source_pk, n, name,
        case when source = 'migration' then 1 when source = 'referral' then 4
            when source = 'scouting' and n % 3 = 0 then 2 else 3 end as grade
    from demo_row where link_person is not null
    union all
    select lead_day, n, n, 'module_ct_referrals', 'code-' || n, n, pg_temp.full_name(n), 4
    from demo_driver where n between 187 and 189
) as lead order by lead_day, lead_no, source_table;

insert into observational.lead_ledger (person_key, attributed_source, attributed_scout_id,
    attribution_rule, attribution_score, confidence_level, evidence_json, decision_status,
    updated_at)
select
    pg_temp.person_key(n),
    case when n between 1101 and 1150 then 'referral' when n < 887 then null
        when n < 4137 then 'cabinet' else 'fleet_migration' end,
    case when n >= 1587 then pg_temp.scout(n) end, 'A_latest_lead', 60 + pg_temp.pick(n, 51, 4000) / 100.0,
    (array['high', 'medium', 'low'])[1 + pg_temp.pick(n, 52, 3)]::public.attributionconfidence, '{}',
    (array['assigned', 'unassigned', 'conflict'])[1 + pg_temp.pick(n, 53, 3)]::public.decisionstatus,
    pg_temp.moment(lead_day, 19)
from demo_driver
where (n between 123 and 186 or n between 887 and 3200 or (n < 54901 and pg_temp.pick(n, 54, 10) = 0))
    and n not between 1170 and 1200  -- referred and never attributed: origin unknown
order by n;

-- ===== Trips: one export a day, appended ==================================================
-- The lateral subquery (kept apart by offset 0) makes the day the outer loop: rows arrive in
-- the order of dates without a sort.
insert into public.summary_daily (driver_id, date_file, count_orders_completed, sum_work_time_seconds)
select
    driver_id, date_file, orders,
    case when activity = 'offline' then 0 else 2400 + orders * 1260 + key % 1800 end
from (
    select day, to_char(pg_temp.calendar(day)::timestamp, 'DD-MM-YYYY') as date_file
    from generate_series(0, 91) as dates (day) offset 0
) as days
cross join lateral (
    select
        driver_id, activity, n * 92 + day as key,
        orders_min + pg_temp.pick(n * 92 + day, 60, orders_spread) as orders
    from demo_driver
    where
        day between first_day and last_day and activity <> 'absent'
        -- the first day always counts, so that everyone but the idle has a trip
        and (day = first_day or pg_temp.pick(n * 92 + day, 61, 1000) < days_per_mille)
    offset 0
) as active;

-- Some drive for two parks, at times on the same day: the other park's export came later.
insert into public.summary_daily (driver_id, date_file, count_orders_completed, sum_work_time_seconds)
select
    driver_id, to_char(pg_temp.calendar(day)::timestamp, 'DD-MM-YYYY'),
    1 + pg_temp.pick(n * 92 + day, 62, 4), 3600
from demo_driver
cross join lateral generate_series(first_day, last_day, 3) as dates (day)
where activity in ('regular', 'steady') and n % 40 = 1
order by day, n;

-- What a hand-made export contains besides.
insert into public.summary_daily (driver_id, date_file, count_orders_completed, sum_work_time_seconds)
select pg_temp.driver_id(n), date_file, 7, 14400
from (
    values ('31-02-2025'), ('2025-07-01'), (''), (null), ('00-08-2025'), ('sin fecha'), ('32-13-2025')
) as broken (date_file)
cross join (values (1), (187), (900), (2900), (5900), (9900)) as drivers (n)
union all
select pg_temp.driver_id(n), '15-07-2025', null, null from generate_series(950, 952) as drivers (n)
union all
select null, '16-07-2025', 4, 7200 from generate_series(1, 2) as copies (n);

-- ===== Payment rules and the Yango ledger =================================================
-- Both tables number from 1: rule 5 exists twice and pays two different parties.
insert into ops.scout_payment_rules (origin_tag, window_days, milestone_trips, amount, valid_from,
    valid_to, is_active, notes)
values
    ('cabinet', 7, 1, 5.00, '2025-05-01', null, true, null),
    ('cabinet', 7, 5, 20.00, '2025-05-01', null, true, null),
    ('cabinet', 7, 25, 50.00, '2025-05-01', null, true, null),
    ('fleet_migration', 30, 1, 10.00, '2025-05-01', null, true, null),
    ('fleet_migration', 30, 5, 30.00, '2025-05-01', '2025-07-31', true, 'until July'),
    ('fleet_migration', 30, 5, 35.00, '2025-08-01', null, true, 'since August'),
    ('fleet_migration', 30, 25, 80.00, '2025-05-01', null, true, null),
    ('cabinet', 14, 25, 60.00, '2025-05-01', null, false, 'never approved'),
    ('cabinet', 7, 5, 15.00, '2024-01-01', '2025-04-30', true, 'expired'),
    ('fleet_migration', 14, 25, 90.00, '2025-10-01', null, true, 'next quarter');
update ops.scout_payment_rules
set created_at = '2025-05-01 12:00:00+00', updated_at = '2025-05-01 12:00:00+00';

insert into ops.partner_payment_rules (origin_tag, window_days, milestone_trips, amount, valid_from,
    valid_to, is_active, notes)
values
    ('cabinet', 14, 1, 25.00, '2025-05-01', null, true, 'Yango'),
    ('cabinet', 14, 5, 35.00, '2025-05-01', null, true, 'Yango'),
    ('cabinet', 14, 25, 100.00, '2025-05-01', null, true, 'Yango'),
    ('cabinet', 14, 25, 120.00, '2024-01-01', '2025-04-30', true, 'expired'),
    ('fleet_migration', 30, 25, 40.00, '2025-05-01', null, true, null),
    ('fleet_migration', 7, 5, 20.00, '2025-05-01', null, false, 'withdrawn'),
    ('cabinet', 30, 25, 110.00, '2025-10-01', null, true, 'next quarter');
update ops.partner_payment_rules
set created_at = '2025-05-01 12:00:00+00', updated_at = '2025-05-01 12:00:00+00';

-- One row per driver and weekly snapshot; now and then the latest says something new.
insert into ops.yango_payments_ledger (driver_id, person_key, identity_status, match_rule,
    match_confidence, latest_snapshot_at)
select
    driver_id, case when status in ('confirmed', 'enriched') then person_key end, status,
    case status when 'confirmed' then 'source_pk' when 'enriched' then 'name_unique' end,
    case status when 'confirmed' then 'high' when 'enriched' then 'medium' when 'ambiguous' then 'low' end,
    pg_temp.moment(70 + snapshot * 7, 4)
from demo_driver
cross join lateral generate_series(1, case when pg_temp.pick(n, 70, 6) = 0 then 3 else 1 end) as s (snapshot)
cross join lateral (select pg_temp.pick(n * 3 + snapshot, 71, 100) as dice) as thrown
cross join lateral (
    select case when dice < 70 or n <= 60 then 'confirmed' when dice < 88 then 'enriched'
        when dice < 95 then 'ambiguous' end as status
) as statuses
where n <= 55200 and pg_temp.pick(n, 72, 100) < case when n < 4137 then 60 else 8 end
order by snapshot, n;

-- Nothing of the making stays in the session but the helpers.
drop table demo_row, demo_lead, demo_driver;
