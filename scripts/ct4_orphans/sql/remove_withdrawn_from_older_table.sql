-- A driver whose only entries were undone is in no state: neither in the older table.
delete from canon.driver_orphan_quarantine_before_ledger as older
where
    not exists (
        select 1
        from canon.driver_orphan_quarantine as quarantine
        where quarantine.driver_id = older.driver_id
    )
