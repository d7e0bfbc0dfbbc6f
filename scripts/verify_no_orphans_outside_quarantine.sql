-- The acceptance SQL of instrucciones-deploy.md, word for word: every count must be 0.
--   psql -f scripts/verify_no_orphans_outside_quarantine.sql
-- `dbt test` checks the same and more, and keeps the violating rows in ct4_orphans_audit.

-- ✅ Drivers sin lead operativos = 0
SELECT COUNT(*) as violation_count
FROM canon.identity_links il
WHERE il.source_table = 'drivers'
AND il.person_key NOT IN (
    SELECT DISTINCT person_key
    FROM canon.identity_links
    WHERE source_table IN ('module_ct_cabinet_leads', 'module_ct_scouting_daily', 'module_ct_migrations')
)
AND il.source_pk NOT IN (
    SELECT driver_id 
    FROM canon.driver_orphan_quarantine 
    WHERE status = 'quarantined'
);

-- ✅ Funnel excluye orphans
SELECT COUNT(*) as orphans_in_funnel
FROM ops.v_cabinet_funnel_status vfs
WHERE vfs.driver_id IN (
    SELECT driver_id 
    FROM canon.driver_orphan_quarantine 
    WHERE status = 'quarantined'
);

-- ✅ Pagos excluyen orphans
SELECT COUNT(*) as orphans_in_payments
FROM ops.v_payment_calculation vpc
WHERE vpc.driver_id IN (
    SELECT driver_id 
    FROM canon.driver_orphan_quarantine 
    WHERE status = 'quarantined'
);

-- ✅ Elegibilidad excluye orphans
SELECT COUNT(*) as orphans_in_eligible
FROM ops.v_ct4_eligible_drivers ved
WHERE ved.driver_id IN (
    SELECT driver_id 
    FROM canon.driver_orphan_quarantine 
    WHERE status = 'quarantined'
);

-- ✅ Todo driver sin lead tiene registro en quarantine
SELECT COUNT(*) as missing_quarantine_records
FROM canon.identity_links il
WHERE il.source_table = 'drivers'
AND il.person_key NOT IN (
    SELECT DISTINCT person_key
    FROM canon.identity_links
    WHERE source_table IN ('module_ct_cabinet_leads', 'module_ct_scouting_daily', 'module_ct_migrations')
)
AND il.source_pk NOT IN (
    SELECT driver_id FROM canon.driver_orphan_quarantine
);
