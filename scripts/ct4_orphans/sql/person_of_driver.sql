-- The person a driver is linked to, else that of its newest ledger entry; null if there is neither.
select
    coalesce(
        (
            select person_key
            from ct4_orphans.int_driver_links
            where driver_id = %(driver_id)s
        ),
        (
            select person_key
            from canon.driver_orphan_quarantine_ledger
            where driver_id = %(driver_id)s
            order by revision desc
            limit 1
        )
    ) as person_key
