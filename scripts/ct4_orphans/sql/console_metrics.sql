select
    status::text as status,
    detected_reason::text as detected_reason,
    lead_events_count > 0 as has_lead_events,
    count(*) as orphans,
    max(last_updated_at) as last_updated_at
from ct4_orphans.int_masked_orphans
group by 1, 2, 3
