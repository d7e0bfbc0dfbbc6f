-- The guard: a driver link whose person has no lead must be of a quarantined driver.
--
-- Why no two transactions can break the rule together, in any isolation levels:
--   1. Who adds a driver link, and who takes away a lead link, writes the row of the person.
--   2. Who then finds a person without a lead relies on the quarantine of its drivers: it writes
--      their rows. Who lifts a quarantine writes the row of the driver.
--   3. So of two whose changes break the rule only together, both write one row: link and lead
--      meet at the person, link or lead and quarantine at the driver.
--   4. The second one waits for the first. READ COMMITTED then judges with a new snapshot that has
--      the first; REPEATABLE READ and SERIALIZABLE get serialization_failure (40001).
--   5. The rows are written at commit only, persons before drivers, each in order: no deadlock.
--
-- SECURITY DEFINER: services need no grant on anything of the guard.
create or replace function canon.ct4_orphans_guard_settings() returns canon.ct4_orphans_guard
language plpgsql
security definer
set search_path = pg_catalog
as $$
declare
    guard canon.ct4_orphans_guard;
begin
    select * into guard from canon.ct4_orphans_guard;
    if guard.mode is null then
        -- What was changed before the guard was there has left no row to meet at.
        raise exception 'the guard of ct4-orphans was installed after this transaction began'
            using hint = 'Run the transaction again.', errcode = 'serialization_failure';
    end if;
    return guard;
end
$$;

-- Once per statement on canon.identity_links.
create or replace function canon.ct4_orphans_guard_collect_links() returns trigger
language plpgsql
security definer
set search_path = pg_catalog
as $$
declare
    lead_sources text[] := (canon.ct4_orphans_guard_settings()).lead_sources;
    persons uuid[];
begin
    if tg_op = 'INSERT' then
        select array_agg(person_key) into persons
        from after_rows
        where source_table = 'drivers';
    elsif tg_op = 'DELETE' then
        select array_agg(person_key) into persons
        from before_rows
        where source_table = any(lead_sources);
    else
        select array_agg(person_key) into persons
        from (
            (
                select person_key, source_pk from after_rows where source_table = 'drivers'
                except
                select person_key, source_pk from before_rows where source_table = 'drivers'
            )
            union all
            (
                select person_key, null from before_rows where source_table = any(lead_sources)
                except
                select person_key, null from after_rows where source_table = any(lead_sources)
            )
        ) as changed;
    end if;
    if persons is not null then
        insert into canon.ct4_orphans_guard_pending (persons) values (persons);
    end if;
    return null;
end
$$;

-- Once per statement on the ledger: whoever is let out, or purged.
create or replace function canon.ct4_orphans_guard_collect_entries() returns trigger
language plpgsql
security definer
set search_path = pg_catalog
as $$
declare
    drivers text[];
begin
    perform canon.ct4_orphans_guard_settings();
    select array_agg(driver_id) into drivers
    from after_rows
    where status <> 'quarantined' or is_withdrawn;
    if drivers is not null then
        insert into canon.ct4_orphans_guard_pending (drivers) values (drivers);
    end if;
    return null;
end
$$;

-- The drivers that break the rule, among those whom this transaction could have made to.
create or replace function canon.ct4_orphans_guard_judge(
    changed_persons uuid[], changed_drivers text[], lead_sources text[]
) returns table (driver_id text, person_key uuid)
language plpgsql
security definer
set search_path = pg_catalog
set plan_cache_mode = force_custom_plan -- one person or half a million: never the same plan
set jit = off
as $$
#variable_conflict use_column
declare
    without_lead uuid[];
    relying text[];
begin
    insert into canon.ct4_orphans_guard_persons (person_key, touched)
    select distinct changed.person_key, pg_current_xact_id()
    from unnest(changed_persons) as changed (person_key)
    order by changed.person_key
    on conflict (person_key) do update set touched = excluded.touched;

    select array_agg(distinct changed.person_key) into without_lead
    from unnest(changed_persons) as changed (person_key)
    where
        not exists (
            select 1
            from canon.identity_links as lead_links
            where
                lead_links.person_key = changed.person_key
                and lead_links.source_table = any(lead_sources)
        );
    if without_lead is null and changed_drivers is null then
        return; -- the usual case
    end if;

    select array_agg(driver_links.source_pk) into relying
    from unnest(without_lead) as changed (person_key)
    inner join canon.identity_links as driver_links
        on changed.person_key = driver_links.person_key
    where driver_links.source_table = 'drivers';
    relying := relying || changed_drivers;

    insert into canon.ct4_orphans_guard_drivers (driver_id, touched)
    select distinct changed.driver_id collate "C", pg_current_xact_id()
    from unnest(relying) as changed (driver_id)
    order by changed.driver_id collate "C"
    on conflict (driver_id) do update set touched = excluded.touched;

    return query
    select driver_links.source_pk::text, driver_links.person_key
    from (select distinct changed.driver_id from unnest(relying) as changed (driver_id)) as changed
    inner join canon.identity_links as driver_links
        on changed.driver_id = driver_links.source_pk
    where
        driver_links.source_table = 'drivers'
        and not exists (
            select 1
            from canon.identity_links as lead_links
            where
                lead_links.person_key = driver_links.person_key
                and lead_links.source_table = any(lead_sources)
        )
        and not exists (
            select 1
            from canon.driver_orphan_quarantine as quarantine
            where
                quarantine.driver_id = driver_links.source_pk
                and quarantine.status = 'quarantined'
        );
end
$$;

-- Once per transaction, at commit: its first pending row takes all of them.
create or replace function canon.ct4_orphans_guard_check() returns trigger
language plpgsql
security definer
set search_path = pg_catalog
as $$
declare
    guard canon.ct4_orphans_guard;
    changed_persons uuid[];
    changed_drivers text[];
    violators text[];
begin
    with mine as (
        delete from canon.ct4_orphans_guard_pending as pending
        where pending.txid = pg_current_xact_id()
        returning pending.persons, pending.drivers
    )
    select
        (select array_agg(person_key) from mine, unnest(persons) as person_key),
        (select array_agg(driver_id) from mine, unnest(drivers) as driver_id)
    into changed_persons, changed_drivers;
    if changed_persons is null and changed_drivers is null then
        return null;
    end if;
    guard := canon.ct4_orphans_guard_settings();

    if guard.mode = 'warn' then
        begin
            insert into canon.ct4_orphans_guard_violations (driver_id, person_key)
            select judged.driver_id, judged.person_key
            from canon.ct4_orphans_guard_judge(
                changed_persons, changed_drivers, guard.lead_sources
            ) as judged
            order by judged.driver_id;
        exception when others then
            -- A guard that only warns stops nobody, whatever happens to it.
            insert into canon.ct4_orphans_guard_violations (not_judged) values (sqlstate);
        end;
        return null;
    end if;

    select array_agg(judged.driver_id order by judged.driver_id) into violators
    from canon.ct4_orphans_guard_judge(
        changed_persons, changed_drivers, guard.lead_sources
    ) as judged;
    if violators is not null then
        raise exception
            'driver % would operate without a lead: refused by the guard of ct4-orphans (rule: '
            'criterion 1, a driver may not operate unless it comes from a lead)',
            violators[1]
            using
                errcode = 'check_violation',
                schema = 'canon',
                table = 'identity_links',
                constraint = 'ct4_orphans_guard',
                detail = format(
                    'Drivers that would break the rule: %s (%s%s).',
                    cardinality(violators),
                    array_to_string(violators[:10], ', '),
                    case when cardinality(violators) > 10 then ', …' else '' end
                ),
                hint = 'Link a lead of the person in the same transaction, or have the driver '
                    'quarantined first.';
    end if;
    return null;
end
$$;

revoke execute on function
    canon.ct4_orphans_guard_settings(),
    canon.ct4_orphans_guard_collect_links(),
    canon.ct4_orphans_guard_collect_entries(),
    canon.ct4_orphans_guard_judge(uuid[], text[], text[]),
    canon.ct4_orphans_guard_check()
from public;
