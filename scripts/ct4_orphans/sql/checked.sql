-- How many rows each criterion looks at. A verification that looked at nothing is none.
with links as (
    select
        count(*) filter (where source_table = 'drivers') as drivers,
        count(*) filter (where match_rule = 'LEAD_EVENT_RECONSTRUCTION') as relinks
    from ct4_orphans.stg_canon__identity_links
),

states as (
    select
        count(*) filter (where status = 'quarantined') as quarantined,
        count(*) filter (where status in ('resolved_relinked', 'resolved_created_lead'))
            as released
    from canon.driver_orphan_quarantine
)

select
    links.drivers as criterion_1_drivers_without_lead_outside_quarantine,
    (select count(*) from ops.v_cabinet_funnel_status) as criterion_2_excluded_drivers_in_funnel,
    (select count(*) from ops.v_payment_calculation) as criterion_2_excluded_drivers_in_payments,
    (select count(*) from ops.v_ct4_eligible_drivers) as criterion_2_excluded_drivers_in_eligible,
    links.drivers as criterion_3_drivers_without_lead_without_record,
    states.quarantined as criterion_5_quarantined_drivers_with_a_lead,
    states.released as criterion_5_released_drivers_without_lead,
    links.relinks as criterion_5_relinks_and_ledger_disagree,
    (select count(*) from canon.driver_orphan_quarantine_ledger)
        as criterion_5_ledger_history_has_gaps,
    exists (
        select 1
        from ct4_orphans.int_driver_links as driver_links
        where
            not exists (
                select 1
                from ct4_orphans.int_excluded_drivers as excluded
                where excluded.driver_id = driver_links.driver_id
            )
    ) as has_drivers_to_show
from links
cross join states
