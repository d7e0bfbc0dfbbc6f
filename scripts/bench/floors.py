"""The floors: the least that a measured thing has to do, in plain SQL over CT4's tables."""

from __future__ import annotations

# The checks of macros/rules/parse_date_file.sql, once per row; what is no date is a group too,
# since a filter would have them done twice.
TRIPS_PER_DRIVER_AND_DAY = """
select
    driver_id,
    case
        when date_file ~ '^(0[1-9]|[12][0-9]|3[01])-(0[1-9]|1[0-2])-[0-9]{4}$'
            and right(date_file, 4) <> '0000'
            then case
                when
                    extract(
                        month from
                        make_date(right(date_file, 4)::int, substr(date_file, 4, 2)::int, 1)
                        + left(date_file, 2)::int - 1
                    ) = substr(date_file, 4, 2)::int
                    then
                        make_date(right(date_file, 4)::int, substr(date_file, 4, 2)::int, 1)
                        + left(date_file, 2)::int - 1
            end
    end as day,
    sum(count_orders_completed) as trips,
    sum(sum_work_time_seconds) as work
from public.summary_daily
group by 1, 2
"""

EVENTS_PER_PERSON_AND_ORIGIN = """
select
    person_key,
    coalesce(payload_json ->> 'origin_tag', source_table) as origin_tag,
    min(event_date) as first_event
from observational.lead_events
group by person_key, coalesce(payload_json ->> 'origin_tag', source_table)
"""

EVENTS = """
select person_key, event_date, payload_json ->> 'origin_tag' as origin_tag
from observational.lead_events
"""

LINKS = "select person_key, source_pk, linked_at from canon.identity_links"

DRIVERS_NAMED_BY_EVENTS = """
select payload_json ->> 'driver_id' as driver_id from observational.lead_events
"""

DRIVERS_WITHOUT_A_LEAD = """
select driver_links.source_pk as driver_id
from canon.identity_links as driver_links
where
    driver_links.source_table = 'drivers'
    and not exists (
        select 1
        from canon.identity_links as lead_links
        where
            lead_links.person_key = driver_links.person_key
            and lead_links.source_table in (
                'module_ct_cabinet_leads', 'module_ct_scouting_daily', 'module_ct_migrations'
            )
    )
"""

OF_THE_PLAN = (DRIVERS_NAMED_BY_EVENTS, DRIVERS_WITHOUT_A_LEAD)
OF_PAYMENT_AND_FUNNEL = (TRIPS_PER_DRIVER_AND_DAY, EVENTS_PER_PERSON_AND_ORIGIN)
OF_ELIGIBLE_AND_ORPHANS = (EVENTS, LINKS)
