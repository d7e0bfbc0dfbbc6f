-- A decision by hand as the driver's next ledger entry. A purge removes the driver link and keeps it
-- whole in the entry; leaving that state puts it back, unless CT4 has linked the driver again.
with previous as (
    select *
    from canon.driver_orphan_quarantine
    where driver_id = %(driver_id)s
),

removed as (
    delete from canon.identity_links
    where
        source_table = 'drivers'
        and source_pk = %(driver_id)s
        and %(status)s = 'purged'
    returning *
),

put_back as (
    insert into canon.identity_links
    select kept.*
    from previous
    cross join lateral
        jsonb_populate_record(
            null::canon.identity_links, previous.evidence_json -> 'driver_link'
        ) as kept
    where
        %(status)s <> 'purged'
        and previous.evidence_json @> '{"action": "resolve"}'
        and previous.evidence_json ? 'driver_link'
    on conflict (source_table, source_pk) do nothing
    returning *
),

link as (
    select * from removed
    union all
    select * from put_back
    union all
    -- As it was before this statement, which does not see what the others do.
    select identity_links.*
    from canon.identity_links
    where
        identity_links.source_table = 'drivers'
        and identity_links.source_pk = %(driver_id)s
        and %(status)s <> 'purged'
),

next as (
    select coalesce(max(revision), 0) + 1 as revision
    from canon.driver_orphan_quarantine_ledger
    where driver_id = %(driver_id)s
)

insert into canon.driver_orphan_quarantine_ledger (
    driver_id,
    revision,
    person_key,
    detected_at,
    detected_reason,
    creation_rule,
    evidence_json,
    status,
    resolved_at,
    resolution_notes,
    run_id
)
select
    %(driver_id)s,
    next.revision,
    coalesce(link.person_key, previous.person_key),
    coalesce(previous.detected_at, now()),
    -- Whom a person shuts out, no machine looks at again.
    coalesce(
        entered.given_reason,
        case when %(status)s <> 'quarantined' then previous.detected_reason end,
        entered.default_reason
    ),
    coalesce(link.match_rule, previous.creation_rule),
    jsonb_build_object(
        'action', 'resolve',
        'explanation', %(explanation)s::text,
        'note', %(note)s::text,
        'run_id', %(run_id)s::text
    )
    || coalesce((select jsonb_build_object('driver_link', to_jsonb(removed)) from removed), '{}'),
    entered.status,
    case when %(status)s <> 'quarantined' then now() end,
    case when %(status)s <> 'quarantined' then %(note)s end,
    %(run_id)s::uuid
from next
left join previous on true
left join link on true
cross join lateral (
    -- The enums, wherever they are.
    select
        typed.status,
        typed.detected_reason as given_reason,
        by_default.detected_reason as default_reason
    from jsonb_populate_record(
        null::canon.driver_orphan_quarantine,
        jsonb_build_object('status', %(status)s::text, 'detected_reason', %(reason)s::text)
    ) as typed
    cross join jsonb_populate_record(
        null::canon.driver_orphan_quarantine,
        jsonb_build_object('detected_reason', 'manual_detection')
    ) as by_default
) as entered
