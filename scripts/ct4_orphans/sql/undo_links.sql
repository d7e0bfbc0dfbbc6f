-- What the run put into canon.identity_links is removed, and kept whole for the entries: lead links
-- of the persons that are undone, and driver links that had been removed by a purge before.
with removed as (
    delete from canon.identity_links
    where
        match_rule = 'LEAD_EVENT_RECONSTRUCTION'
        and evidence ->> 'run_id' = %(run_id)s::text
        and person_key in (
            select undone.person_key
            from pg_temp.undone
            where undone.refusal is null
        )
        or source_table = 'drivers'
        and source_pk in (
            select undone.driver_id
            from pg_temp.undone
            where undone.refusal is null and undone.was_without_link
        )
    returning *
)

insert into pg_temp.removed_links (person_key, links)
select
    person_key,
    jsonb_agg(to_jsonb(removed) order by id)
from removed
group by person_key
