-- The lead links that the run made for the persons that are undone are removed, and kept whole for
-- their entries.
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
    returning *
)

insert into pg_temp.removed_links (person_key, links)
select
    person_key,
    jsonb_agg(to_jsonb(removed) order by id)
from removed
group by person_key
