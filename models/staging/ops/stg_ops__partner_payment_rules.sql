select
    id as rule_id,
    origin_tag,
    window_days,
    milestone_trips,
    amount,
    currency,
    valid_from,
    valid_to,
    is_active
from {{ source('ops', 'partner_payment_rules') }}
