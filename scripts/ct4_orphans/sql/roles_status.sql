-- Who may do what to the ledger. Only the catalogues are read.
select
    roles.rolname as name,
    case
        when roles.rolsuper then 'superuser'
        when pg_has_role(roles.oid, ledger.relowner, 'usage') then 'owner'
        when has_table_privilege(roles.oid, ledger.oid, 'update, delete, truncate') then 'change'
        when has_any_column_privilege(roles.oid, ledger.oid, 'insert') then 'append'
        else 'read'
    end as may,
    roles.rolcanlogin as can_login
from pg_roles as roles
cross join (
    select
        pg_class.oid,
        pg_class.relowner
    from pg_class
    where pg_class.oid = to_regclass('canon.driver_orphan_quarantine_ledger')
) as ledger
where
    roles.rolname not like 'pg\_%%'
    and (
        roles.rolsuper
        or has_any_column_privilege(roles.oid, ledger.oid, 'select, insert, update')
        or has_table_privilege(roles.oid, ledger.oid, 'delete, truncate')
    )
order by roles.rolname
