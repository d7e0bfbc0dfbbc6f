select
    id as rule_id,
    origin_tag,
    window_days,
    milestone_trips,
    amount,
    currency,
    valid_from,
    valid_to,
    is_active,
    -- Newer deployments have this column, older ones do not: read by name, so that one
    -- project serves both, and a column that CT4 adds later counts at once.
    coalesce(to_jsonb(rules) ->> 'milestone_type', 'trips') as milestone_type
from {{ source('ops', 'scout_payment_rules') }} as rules
