-- Everything that makes up a relation like a view, one row each. With an empty search_path the
-- definition names every relation in full.
select
    relation.oid::int8 as oid,
    relation.relkind::text as kind,
    namespace.nspname::text as schema_name,
    relation.relname::text as name,
    pg_get_userbyid(relation.relowner)::text as owner,
    case
        when relation.relkind = 'v' then pg_get_viewdef(relation.oid)
    end as definition,
    to_jsonb(coalesce(relation.reloptions, '{}')) as options,
    obj_description(relation.oid, 'pg_class') as comment,
    grants.grants,
    coalesce(columns.columns, '[]') as columns,
    coalesce(triggers.triggers, '[]') as triggers,
    coalesce(rules.rules, '[]') as rules
from pg_class as relation
inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
cross join lateral (
    select
        coalesce(
            jsonb_agg(
                jsonb_build_array(
                    case when acl.grantee <> 0 then pg_get_userbyid(acl.grantee) end,
                    acl.privilege_type,
                    acl.is_grantable,
                    pg_get_userbyid(acl.grantor)
                )
            ),
            '[]'
        ) as grants
    from aclexplode(coalesce(relation.relacl, acldefault('r', relation.relowner))) as acl
) as grants
left join lateral (
    select
        jsonb_agg(
            jsonb_build_object(
                'name', attribute.attname,
                'type', format_type(attribute.atttypid, attribute.atttypmod),
                'not_null', attribute.attnotnull,
                'default', pg_get_expr(attrdef.adbin, attrdef.adrelid),
                'comment', col_description(relation.oid, attribute.attnum),
                'grants', (
                    select
                        coalesce(
                            jsonb_agg(
                                jsonb_build_array(
                                    case
                                        when acl.grantee <> 0 then pg_get_userbyid(acl.grantee)
                                    end,
                                    acl.privilege_type,
                                    acl.is_grantable,
                                    pg_get_userbyid(acl.grantor)
                                )
                            ),
                            '[]'
                        )
                    from aclexplode(attribute.attacl) as acl
                )
            )
            order by attribute.attnum
        ) as columns
    from pg_attribute as attribute
    left join pg_attrdef as attrdef
        on attribute.attrelid = attrdef.adrelid and attribute.attnum = attrdef.adnum
    where
        attribute.attrelid = relation.oid
        and attribute.attnum > 0
        and not attribute.attisdropped
) as columns on true
left join lateral (
    select
        jsonb_agg(
            jsonb_build_object(
                'name', tg.tgname,
                'definition', pg_get_triggerdef(tg.oid),
                'comment', obj_description(tg.oid, 'pg_trigger')
            )
            order by tg.tgname
        ) as triggers
    from pg_trigger as tg
    where tg.tgrelid = relation.oid and not tg.tgisinternal
) as triggers on true
left join lateral (
    select jsonb_agg(pg_get_ruledef(rw.oid) order by rw.rulename) as rules
    from pg_rewrite as rw
    where rw.ev_class = relation.oid and rw.rulename <> '_RETURN'
) as rules on true
where relation.oid = any(%(oids)s::oid[])
