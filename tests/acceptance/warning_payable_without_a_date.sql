{{ config(severity='warn') }}
-- Payable by a rule for whose scope and origin seeds/payment_terms.csv knows no term.
select
    rule_scope,
    origin_tag,
    rule_id,
    count(*) as payments
from {{ ref('v_payment_calculation') }}
where
    is_payable
    and payable_date is null
group by rule_scope, origin_tag, rule_id
