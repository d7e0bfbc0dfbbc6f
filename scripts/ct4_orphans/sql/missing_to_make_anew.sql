-- ALTER VIEW … OWNER TO wants that the owner may create in the schema, unless a superuser says it.
select distinct
    'grant create on schema ' || quote_ident(wanted.view ->> 0) || ' to '
    || quote_ident(wanted.view ->> 1) || ';' as remedy
from jsonb_array_elements(%(views)s) as wanted (view)
where
    current_setting('is_superuser') = 'off'
    and wanted.view ->> 1 <> current_user
    and not has_schema_privilege(wanted.view ->> 1, wanted.view ->> 0, 'create')
