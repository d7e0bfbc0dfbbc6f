"""Every dbt test goes red when it should: no check that cannot fail, no check without a case.

The tests are compiled once and their SQL is run on a small world that has been fixed, green, then
red inside a transaction that is rolled back. Real `dbt test` runs prove the rest: exit codes,
warnings, and the violating rows kept as live views in ct4_orphans_audit.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from conftest import ROOT, Run, must_run, open_connection, run_command
from ct4_orphans import embedded
from ct4_orphans.database import Connection, Settings
from psycopg import sql
from reading import LEAD_SOURCES

Node = dict[str, Any]

PERSON = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(10)]
DRIVER = [f"{number:032x}" for number in range(10)]
PARITY = "{parity_with_ct4: true}"
AUDIT = "ct4_orphans_audit"

# By number: 1 has a lead. 2 is an orphan that the fix relinks. 3 is an orphan that it quarantines,
# with an event that carries only the person. 4 has a lead and is purged. 5 has two origins. 6 has
# two drivers (6 and 7) and an event that is no lead. 8 has a lead and no driver.
SMALL_WORLD = f"""
    insert into canon.identity_registry (person_key)
    select ('00000000-0000-4000-8000-00000000000' || number)::uuid
    from generate_series(1, 8) as numbers (number);

    insert into canon.identity_links (
        person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
        confidence_level, linked_at
    )
    select
        ('00000000-0000-4000-8000-00000000000' || person)::uuid, source_table, source_pk,
        '2025-01-01', 'PHONE_EXACT', 90, 'HIGH', '2025-01-01'::timestamptz + nr * interval '1 hour'
    from (values
        (1, 'drivers', '{DRIVER[1]}', 1), (2, 'drivers', '{DRIVER[2]}', 2),
        (3, 'drivers', '{DRIVER[3]}', 3), (4, 'drivers', '{DRIVER[4]}', 4),
        (5, 'drivers', '{DRIVER[5]}', 5), (6, 'drivers', '{DRIVER[6]}', 6),
        (6, 'drivers', '{DRIVER[7]}', 7),
        (1, 'module_ct_cabinet_leads', '1', 8), (4, 'module_ct_migrations', '4', 9),
        (5, 'module_ct_migrations', '5', 10), (5, 'module_ct_cabinet_leads', '50', 11),
        (6, 'module_ct_scouting_daily', '6', 12), (8, 'module_ct_cabinet_leads', '8', 13)
    ) as links (person, source_table, source_pk, nr);

    insert into observational.lead_events (
        source_table, source_pk, event_date, person_key, scout_id, payload_json, created_at
    )
    select
        source_table, source_pk, event_date::date,
        ('00000000-0000-4000-8000-00000000000' || person)::uuid, scout_id, payload::jsonb, now()
    from (values
        ('module_ct_cabinet_leads', '1', '2025-01-10', 1, null, '{{}}'),
        ('module_ct_cabinet_leads', '2', '2025-01-10', null, 7,
            '{{"driver": {{"id": "{DRIVER[2]}"}}}}'),
        ('module_ct_cabinet_leads', '3', '2025-01-10', 3, null, '{{}}'),
        ('module_ct_migrations', '4', '2025-01-10', 4, 1, '{{}}'),
        ('module_ct_migrations', '5', '2025-01-12', 5, 3, '{{}}'),
        ('module_ct_migrations', '51', '2025-01-11', 5, 4, '{{}}'),
        ('module_ct_cabinet_leads', '50', '2025-01-14', 5, 5, '{{}}'),
        ('module_ct_scouting_daily', '6', '2025-01-09', 6, 6, '{{"origin_tag": "fair"}}'),
        ('module_ct_referrals', '6', '2025-01-08', 6, 2, '[]'),
        ('module_ct_cabinet_leads', '8', '2025-01-10', 8, null, '{{}}')
    ) as events (source_table, source_pk, event_date, person, scout_id, payload);

    insert into observational.lead_ledger (person_key, attributed_source)
    values ('{PERSON[6]}', 'referral');

    insert into public.summary_daily
    select lpad(driver::text, 32, '0'), day, trips, work_seconds
    from generate_series(1, 7) as drivers (driver)
    cross join (values
        ('08-01-2025', 2, 60), ('10-01-2025', 0, 0), ('11-01-2025', 3, 600),
        ('11-01-2025', 2, null), ('16-01-2025', null, 300), ('20-01-2025', 4, 100),
        ('08-02-2025', 25, 900), ('31-12-2025', 1, 1)
    ) as days (day, trips, work_seconds);

    insert into ops.scout_payment_rules (
        origin_tag, window_days, milestone_trips, amount, valid_from
    )
    values ('cabinet', 7, 1, 10, '2024-01-01'), ('fleet_migration', 30, 5, 20, '2024-01-01');
    insert into ops.partner_payment_rules (
        origin_tag, window_days, milestone_trips, amount, valid_from
    )
    values ('cabinet', 14, 5, 30, '2024-01-01');

    insert into canon.driver_orphan_quarantine (driver_id, person_key, detected_reason, status)
    values ('{DRIVER[4]}', '{PERSON[4]}', 'manual_detection', 'purged');
"""

# The acceptance SQL of instrucciones-deploy.md.
VERBATIM = [
    """
    SELECT COUNT(*) as violation_count
    FROM canon.identity_links il
    WHERE il.source_table = 'drivers'
    AND il.person_key NOT IN (
        SELECT DISTINCT person_key
        FROM canon.identity_links
        WHERE source_table IN ('module_ct_cabinet_leads',
        'module_ct_scouting_daily', 'module_ct_migrations')
    )
    AND il.source_pk NOT IN (
        SELECT driver_id
        FROM canon.driver_orphan_quarantine
        WHERE status = 'quarantined'
    )
    """,
    """
    SELECT COUNT(*) as orphans_in_funnel
    FROM ops.v_cabinet_funnel_status vfs
    WHERE vfs.driver_id IN (
        SELECT driver_id
        FROM canon.driver_orphan_quarantine
        WHERE status = 'quarantined'
    )
    """,
    """
    SELECT COUNT(*) as orphans_in_payments
    FROM ops.v_payment_calculation vpc
    WHERE vpc.driver_id IN (
        SELECT driver_id
        FROM canon.driver_orphan_quarantine
        WHERE status = 'quarantined'
    )
    """,
    """
    SELECT COUNT(*) as orphans_in_eligible
    FROM ops.v_ct4_eligible_drivers ved
    WHERE ved.driver_id IN (
        SELECT driver_id
        FROM canon.driver_orphan_quarantine
        WHERE status = 'quarantined'
    )
    """,
    """
    SELECT COUNT(*) as missing_quarantine_records
    FROM canon.identity_links il
    WHERE il.source_table = 'drivers'
    AND il.person_key NOT IN (
        SELECT DISTINCT person_key
        FROM canon.identity_links
        WHERE source_table IN ('module_ct_cabinet_leads',
        'module_ct_scouting_daily', 'module_ct_migrations')
    )
    AND il.source_pk NOT IN (
        SELECT driver_id FROM canon.driver_orphan_quarantine
    )
    """,
]


# --- Mutations ------------------------------------------------------------------------------------


def redefine(view: str, query: str) -> str:
    """Replace a view by a query over {definition}, what it was so far."""
    return f"""
        do $do$ begin
            execute replace(
                $q$create or replace view {view} as {query}$q$,
                '{{definition}}',
                '(' || rtrim(pg_get_viewdef('{view}'::regclass), ';') || ') as original'
            );
        end $do$;
    """


def link(person: int, source_table: str, source_pk: str, more: str = "'MANUAL', null") -> str:
    return f"""
        insert into canon.identity_links (
            person_key, source_table, source_pk, snapshot_date, match_score, confidence_level,
            match_rule, evidence
        )
        values ('{PERSON[person]}', '{source_table}', '{source_pk}', now(), 1, 'LOW', {more});
    """


def link_like_the_fix(source_table: str, source_pk: str) -> str:
    """One more link of the relinked person, which says that it is the fix's."""
    return f"""
        insert into canon.identity_links (
            person_key, source_table, source_pk, snapshot_date, match_score, confidence_level,
            match_rule, evidence
        )
        select person_key, '{source_table}', '{source_pk}', now(), 1, 'LOW', match_rule, evidence
        from canon.identity_links
        where {RECONSTRUCTED};
    """


def event(source_table: str, payload: str, person: str = "null") -> str:
    return f"""
        insert into observational.lead_events (
            source_table, source_pk, event_date, person_key, payload_json, created_at
        )
        values ('{source_table}', '99', '2025-01-10', {person}, {payload}, now());
    """


def entry(
    driver: int,
    revision: int,
    status: str = "quarantined",
    evidence: dict[str, Any] | None = None,
) -> str:
    return f"""
        insert into canon.driver_orphan_quarantine_ledger (
            driver_id, revision, person_key, detected_reason, status, evidence_json
        )
        values (
            '{DRIVER[driver]}', {revision}, '{PERSON[driver]}', 'manual_detection', '{status}',
            '{json.dumps(evidence or {})}'
        );
    """


def state(driver: int, status: str) -> str:
    return f"""
        update canon.driver_orphan_quarantine set status = '{status}'
        where driver_id = '{DRIVER[driver]}';
    """


def forget_entries(driver: int) -> str:
    """What only someone who goes round the triggers can do."""
    return f"""
        alter table canon.driver_orphan_quarantine_ledger disable trigger user;
        delete from canon.driver_orphan_quarantine_ledger where driver_id = '{DRIVER[driver]}';
        alter table canon.driver_orphan_quarantine_ledger enable trigger user;
    """


def unlink(person: int) -> str:
    return f"""
        delete from canon.identity_links
        where person_key = '{PERSON[person]}' and source_table <> 'drivers';
    """


EXCLUDED = "ct4_orphans.int_excluded_drivers"
EXCLUDE_NOBODY = redefine(EXCLUDED, "select * from {definition} where false")
EXCLUDE_NO_PURGED = redefine(EXCLUDED, "select * from {definition} where status = 'quarantined'")
RECONSTRUCTED = "match_rule = 'LEAD_EVENT_RECONSTRUCTION'"
LEAD_ROWS = [{"source_table": "module_ct_cabinet_leads", "source_pk": "gone"}]
ANOTHER_RUN = """'LEAD_EVENT_RECONSTRUCTION', '{"run_id": "nobody knows"}'"""


@dataclass(frozen=True)
class Case:
    """A mutation of the fixed world, and a violation that the test must show then."""

    test: str
    mutation: str
    statements: str
    violation: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.test}: {self.mutation}"


def driver(number: int) -> dict[str, Any]:
    return {"driver_id": DRIVER[number]}


def cases_of(test: str, *cases: tuple[str, str, dict[str, Any]]) -> list[Case]:
    return [Case(test, *case) for case in cases]


CASES = [
    *cases_of(
        "criterion_1_drivers_without_lead_outside_quarantine",
        ("a driver linked without a lead", link(7, "drivers", DRIVER[8]), driver(8)),
        ("a lead that is unlinked", unlink(1), driver(1)),
        (
            "a lead that is no lead source's",
            unlink(1) + link(1, "module_ct_referrals", "1"),
            driver(1),
        ),
        ("released by hand without a lead", state(3, "resolved_created_lead"), driver(3)),
    ),
    *cases_of(
        "criterion_2_excluded_drivers_in_funnel",
        ("nobody is excluded", EXCLUDE_NOBODY, driver(3)),
        ("purged drivers are not excluded", EXCLUDE_NO_PURGED, driver(4)),
    ),
    *cases_of(
        "criterion_2_excluded_drivers_in_payments",
        ("nobody is excluded", EXCLUDE_NOBODY, driver(3)),
        ("purged drivers are not excluded", EXCLUDE_NO_PURGED, driver(4)),
    ),
    *cases_of(
        "criterion_2_excluded_drivers_in_eligible",
        ("nobody is excluded", EXCLUDE_NOBODY, driver(3)),
        ("purged drivers are not excluded", EXCLUDE_NO_PURGED, driver(4)),
    ),
    *cases_of(
        "criterion_3_drivers_without_lead_without_record",
        ("a driver linked without a lead", link(7, "drivers", DRIVER[8]), driver(8)),
        ("a lead that is unlinked", unlink(1), driver(1)),
        ("a record that is removed", forget_entries(3), driver(3)),
    ),
    *cases_of(
        "criterion_5_ledger_history_has_gaps",
        ("a revision left out", entry(3, 3), driver(3) | {"entries": 2, "newest_revision": 3}),
        ("a history that starts at 2", entry(8, 2), driver(8)),
        (
            "a first revision removed",
            entry(3, 2)
            + "alter table canon.driver_orphan_quarantine_ledger disable trigger user;"
            + "delete from canon.driver_orphan_quarantine_ledger where revision = 1;"
            + "alter table canon.driver_orphan_quarantine_ledger enable trigger user;",
            driver(3),
        ),
    ),
    *cases_of(
        "criterion_5_quarantined_drivers_with_a_lead",
        ("a lead that came later", link(3, "module_ct_migrations", "3"), driver(3)),
        ("a driver with a lead quarantined", entry(1, 1), driver(1)),
        ("only one of two drivers quarantined", entry(7, 1), driver(7)),
    ),
    *cases_of(
        "criterion_5_released_drivers_without_lead",
        ("a reconstructed lead that is unlinked", unlink(2), driver(2)),
        ("released by hand without a lead", state(3, "resolved_created_lead"), driver(3)),
        ("relinked by hand without a lead", state(3, "resolved_relinked"), driver(3)),
    ),
    *cases_of(
        "criterion_5_relinks_and_ledger_disagree",
        (
            "a link of a fix removed",
            f"delete from canon.identity_links where {RECONSTRUCTED}",
            {"disagreement": "ledger entry without its link", "source_pk": "2"},
        ),
        (
            "a link that no entry speaks of",
            link(3, "module_ct_migrations", "3", ANOTHER_RUN),
            {"disagreement": "link without a ledger entry", "source_pk": "3"},
        ),
        (
            "an entry removed",
            forget_entries(2),
            {"disagreement": "link without a ledger entry", "source_pk": "2"},
        ),
        (
            "a link removed while other drivers have newer entries",
            f"delete from canon.identity_links where {RECONSTRUCTED};" + entry(3, 2),
            {"disagreement": "ledger entry without its link", "source_pk": "2"},
        ),
        (
            "a link removed while another table has a row of that key",
            f"delete from canon.identity_links where {RECONSTRUCTED};"
            + link(8, "module_ct_migrations", "2"),
            {"disagreement": "ledger entry without its link", "source_pk": "2"},
        ),
        (
            "the lead of two drivers of a person gone: one row",
            "".join(
                entry(one, 1, "resolved_relinked", {"run_id": "x", "lead_rows": LEAD_ROWS}).replace(
                    PERSON[7], PERSON[6]
                )
                for one in (6, 7)
            ),
            {"disagreement": "ledger entry without its link", "source_pk": "gone"},
        ),
        (
            "a link that says another run",
            f"""update canon.identity_links set evidence = '{{"run_id": "another"}}'
            where {RECONSTRUCTED}""",
            {"disagreement": "link without a ledger entry", "source_pk": "2"},
        ),
        (
            "a second row linked in the name of the run",
            link_like_the_fix("module_ct_cabinet_leads", "77"),
            {"disagreement": "link without a ledger entry", "source_pk": "77"},
        ),
        (
            "the row of another table linked in the name of the run",
            link_like_the_fix("module_ct_migrations", "2"),
            {
                "disagreement": "link without a ledger entry",
                "source_table": "module_ct_migrations",
            },
        ),
        (
            "a link moved to another person",
            f"update canon.identity_links set person_key = '{PERSON[3]}' where {RECONSTRUCTED}",
            {"disagreement": "link without a ledger entry", "person_key": uuid.UUID(PERSON[3])},
        ),
    ),
    *cases_of(
        "looked_at_something",
        (
            "no driver link",
            "delete from canon.identity_links where source_table = 'drivers'",
            {"what": "driver links"},
        ),
        (
            "no lead link",
            "delete from canon.identity_links where source_table <> 'drivers'",
            {"what": "lead links"},
        ),
        ("no lead event", "delete from observational.lead_events", {"what": "lead events"}),
        ("no daily summary", "delete from public.summary_daily", {"what": "daily summaries"}),
        ("no lead source", "delete from ct4_orphans.lead_sources", {"what": "lead sources"}),
        (
            "a lead source missing",
            "delete from ct4_orphans.lead_sources where source_table = 'module_ct_migrations'",
            {"what": "lead sources"},
        ),
        (
            "a lead source misspelt",
            "update ct4_orphans.lead_sources set source_table = 'module_ct_migration'"
            " where source_table = 'module_ct_migrations'",
            {"what": "lead sources"},
        ),
    ),
    *cases_of(
        "warning_malformed_lead_events",
        ("no payload", event("module_ct_migrations", "null"), {"payload_type": None}),
        ("an array", event("module_ct_migrations", "'[]'"), {"payload_type": "array"}),
        ("a string", event("module_ct_cabinet_leads", "'\"x\"'"), {"payload_type": "string"}),
        ("a number", event("module_ct_scouting_daily", "'7'"), {"payload_type": "number"}),
        ("JSON's null", event("module_ct_migrations", "'null'"), {"payload_type": "null"}),
    ),
    *cases_of(
        "warning_malformed_summary_rows",
        (
            "a day that does not exist",
            f"insert into public.summary_daily values ('{DRIVER[1]}', '31-02-2025', 1, 1)",
            {"date_file": "31-02-2025"},
        ),
        (
            "another format",
            f"insert into public.summary_daily values ('{DRIVER[1]}', '2025-02-01', 1, 1)",
            {"date_file": "2025-02-01"},
        ),
        (
            "no date",
            f"insert into public.summary_daily values ('{DRIVER[1]}', null, 1, 1)",
            {"date_file": None},
        ),
        (
            "no driver",
            "insert into public.summary_daily values (null, '10-01-2025', 1, 1)",
            {"driver_id": None},
        ),
    ),
    *cases_of(
        "warning_payable_without_a_date",
        (
            "a scout rule for an origin without a term",
            "insert into ops.scout_payment_rules (origin_tag, window_days, milestone_trips, amount,"
            " valid_from) values ('referral', 30, 1, 1, '2024-01-01')",
            {"rule_scope": "scout", "origin_tag": "referral"},
        ),
        (
            "a term removed",
            "delete from ct4_orphans.payment_terms where origin_tag = 'fleet_migration'",
            {"rule_scope": "scout", "origin_tag": "fleet_migration"},
        ),
    ),
]

CONVERSIONS = "observational.v_conversion_metrics"
MILESTONES = "ops.v_cabinet_milestones_achieved_from_trips"
CONVERSION_COLUMNS = """
    person_key origin_tag lead_date scout_id driver_id hire_date first_connection_date
    first_trip_date trip_1_date trip_5_date trip_25_date time_to_connection_days time_to_1_days
    time_to_5_days time_to_25_days trips_7d trips_14d trips_30d
"""
MILESTONE_COLUMNS = "driver_id milestone_value achieved_flag achieved_date trips_at_achieved"


def altered(view: str, columns: str, where: str, column: str, value: str) -> str:
    """CT4's view with one value changed in the rows of one person or driver."""
    shown = ", ".join(
        f"case when {where} then {value} else {name} end as {name}" if name == column else name
        for name in columns.split()
    )
    return redefine(view, f"select {shown} from {{definition}}")


def conversion_cases() -> list[Case]:
    test = "parity_conversions_with_ct4"
    mine = f"(person_key = '{PERSON[5]}' and origin_tag = 'fleet_migration')"
    person = {"person_key": uuid.UUID(PERSON[5])}
    values = {
        "person_key": f"'{PERSON[7]}'::uuid",
        "origin_tag": "'cabinet '",
        "lead_date": "lead_date + 1",
        "scout_id": "scout_id + 1",
        "driver_id": f"'{DRIVER[1]}'::varchar",
        "first_connection_date": "null::date",
        "trips_7d": "trips_7d + 1",
        "trips_14d": "trips_14d - 1",
        "trips_30d": "null::bigint",
    }
    changes = [
        (
            f"another {column}",
            altered(CONVERSIONS, CONVERSION_COLUMNS, mine, column, value),
            {"side": "only ours"} | person,
        )
        for column, value in values.items()
    ]
    return cases_of(
        test,
        *changes,
        (
            "a row that CT4 does not have",
            redefine(CONVERSIONS, f"select * from {{definition}} where not {mine}"),
            {"side": "only ours"} | person,
        ),
        (
            "a row that CT4 has twice",
            redefine(
                CONVERSIONS,
                f"select * from {{definition}} union all select * from {{definition}} where {mine}",
            ),
            {"side": "only CT4"} | person,
        ),
    )


def milestone_cases() -> list[Case]:
    test = "parity_milestones_with_ct4"
    mine = f"(driver_id = '{DRIVER[5]}' and milestone_value = 5)"
    values = {
        "driver_id": "'nobody'",
        "milestone_value": "7",
        "achieved_date": "achieved_date + 1",
        "trips_at_achieved": "trips_at_achieved + 1",
        "achieved_flag": "false",
    }
    ours = {"side": "only ours", "driver_id": DRIVER[5]}
    return cases_of(
        test,
        *(
            (
                f"another {column}",
                altered(MILESTONES, MILESTONE_COLUMNS, mine, column, value),
                ours,
            )
            for column, value in values.items()
        ),
        (
            "a row that CT4 does not have",
            redefine(MILESTONES, f"select * from {{definition}} where not {mine}"),
            ours,
        ),
        (
            "a row that CT4 has twice",
            redefine(
                MILESTONES,
                f"select * from {{definition}} union all select * from {{definition}} where {mine}",
            ),
            ours | {"side": "only CT4"},
        ),
    )


CASES += conversion_cases() + milestone_cases()

# The same change where it is none of the test's business: it must stay green.
HARMLESS = [
    *cases_of(
        "criterion_1_drivers_without_lead_outside_quarantine",
        (
            "a driver linked with a lead",
            link(7, "drivers", DRIVER[8]) + link(7, "module_ct_migrations", "7"),
            {},
        ),
        ("a driver linked and quarantined", link(7, "drivers", DRIVER[8]) + entry(8, 1), {}),
        ("a link that is no driver's", link(7, "module_ct_referrals", "7"), {}),
    ),
    *cases_of(
        "criterion_3_drivers_without_lead_without_record",
        ("a link that is no driver's", link(7, "module_ct_referrals", "7"), {}),
        *(
            (
                f"a driver linked with a lead of {source}",
                link(7, "drivers", DRIVER[8]) + link(7, source, "7"),
                {},
            )
            for source in LEAD_SOURCES
        ),
    ),
    *cases_of(
        "criterion_5_relinks_and_ledger_disagree",
        (
            "a link of somebody else's run",
            link(8, "module_ct_migrations", "7", """'MANUAL', '{"run_id": "theirs"}'"""),
            {},
        ),
        (
            "a link of the older fix, which had no runs",
            link(8, "module_ct_migrations", "7", "'LEAD_EVENT_RECONSTRUCTION', '{}'"),
            {},
        ),
        (
            "an entry of the older fix, whose links had no run",
            entry(8, 1, "resolved_relinked", {"lead_rows": LEAD_ROWS}),
            {},
        ),
        (
            "a relinked driver that lost its lead and was found again",
            f"delete from canon.identity_links where {RECONSTRUCTED};" + entry(2, 2),
            {},
        ),
        (
            "a relinked driver that was purged, with its lead gone",
            f"delete from canon.identity_links where {RECONSTRUCTED};"
            + entry(2, 2, "purged", {"run_id": "nobody knows", "lead_rows": LEAD_ROWS}),
            {},
        ),
    ),
    *cases_of(
        "criterion_5_ledger_history_has_gaps",
        ("one more entry", entry(3, 2), {}),
        ("an update through the old name", state(3, "purged"), {}),
    ),
    *cases_of(
        "warning_malformed_lead_events",
        ("a payload of another table", event("module_ct_referrals", "null"), {}),
        ("an empty object", event("module_ct_migrations", "'{}'"), {}),
    ),
    *cases_of(
        "warning_payable_without_a_date",
        (
            "a rule that nobody reaches",
            "insert into ops.scout_payment_rules (origin_tag, window_days, milestone_trips, amount,"
            " valid_from) values ('referral', 30, 999, 1, '2024-01-01')",
            {},
        ),
    ),
    *cases_of(
        "parity_conversions_with_ct4",
        (
            "a person known by the lead link alone",
            altered(
                CONVERSIONS,
                CONVERSION_COLUMNS,
                f"person_key = '{PERSON[8]}'",
                "person_key",
                f"'{PERSON[2]}'::uuid",
            )
            + f"update observational.lead_events set person_key = '{PERSON[2]}'"
            f" where person_key = '{PERSON[8]}'",
            {},
        ),
    ),
    *cases_of(
        "parity_milestones_with_ct4",
        (
            "a driver of few trips, in two parks, some of them taken back",
            "insert into public.summary_daily values ('few', '01-02-2025', 3, 1),"
            " ('few', '02-02-2025', -2, 1), ('few', '02-02-2025', 1, 1)",
            {},
        ),
        (
            "a driver whose trips were all taken back",
            "insert into public.summary_daily values ('none', '01-02-2025', 30, 1),"
            " ('none', '01-02-2025', -30, 1)",
            {},
        ),
    ),
]


# --- A small world that has been fixed, and the compiled tests ------------------------------------


def fix(settings: Settings, directory: Path) -> None:
    must_run("orphans", "fix", "--execute", "--output-dir", str(directory), settings=settings)


def make_fixed_world(settings: Settings, directory: Path) -> Settings:
    with open_connection(settings) as connection:
        connection.execute(SMALL_WORLD)  # type: ignore[arg-type]
    fix(settings, directory)
    return settings


@pytest.fixture(scope="session")
def fixed_world(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    name = f"test_{uuid.uuid4().hex}"
    settings = embedded.recreate_database(server, name, template="template_built")
    yield make_fixed_world(settings, tmp_path_factory.mktemp("reports"))
    with psycopg.connect(**server.connection_parameters(), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def green_run(fixed_world: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Exit code, statuses and nodes of one `dbt test` of all data tests on the fixed world.

    Side by side, one worker runs it and the others read what it found.
    """
    base = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    shared = (base.parent if is_worker else base) / "green_run.json"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            target = tmp_path_factory.mktemp("target")
            exit_code, statuses = dbt_test(fixed_world, target, "--select", "test_type:data")
            nodes = json.loads((target / "manifest.json").read_text())["nodes"].values()
            for node in nodes:
                code = node.get("compiled_code") or ""
                node["compiled_code"] = code.replace(f'"{node["database"]}".', "")
            tests = {node["name"]: node for node in nodes if node["resource_type"] == "test"}
            found = {"exit_code": exit_code, "statuses": statuses, "tests": tests}
            shared.write_text(json.dumps(found))
    return cast("dict[str, Any]", json.loads(shared.read_text()))


@pytest.fixture(scope="session")
def compiled(green_run: dict[str, Any]) -> dict[str, Node]:
    """All data tests with their compiled SQL, those that compare with CT4 included."""
    return cast("dict[str, Node]", green_run["tests"])


@pytest.fixture
def connection(fixed_world: Settings) -> Iterator[Connection]:
    """A transaction on the fixed world that is rolled back."""
    with open_connection(fixed_world) as connection:
        yield connection
        connection.rollback()


def violations(connection: Connection, node: Node) -> list[dict[str, Any]]:
    return connection.execute(node["compiled_code"]).fetchall()


def is_without_repetition(found: list[dict[str, Any]]) -> bool:
    return len(set(map(str, found))) == len(found)


def shows(found: list[dict[str, Any]], expected: dict[str, Any]) -> bool:
    return any(expected.items() <= row.items() for row in found)


# --- Singular tests -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_goes_red_by(connection: Connection, compiled: dict[str, Node], case: Case) -> None:
    test = compiled[case.test]
    assert violations(connection, test) == []
    connection.execute(case.statements)  # type: ignore[arg-type]
    found = violations(connection, test)
    assert shows(found, case.violation), found
    assert is_without_repetition(found), found
    connection.rollback()
    assert violations(connection, test) == []


@pytest.mark.parametrize("case", HARMLESS, ids=str)
def test_stays_green_with(connection: Connection, compiled: dict[str, Node], case: Case) -> None:
    connection.execute(case.statements)  # type: ignore[arg-type]
    assert violations(connection, compiled[case.test]) == []


def test_parity_leaves_out_only_persons_known_by_the_lead_link_alone(
    connection: Connection,
) -> None:
    """So there is something to leave out: the relinked person, whom CT4's view does not see."""
    found = connection.execute(
        """
        select distinct ours.person_key
        from ct4_orphans.int_conversions as ours
        where
            not exists (
                select 1
                from observational.v_conversion_metrics as theirs
                where theirs.person_key = ours.person_key
            )
        """
    ).fetchall()
    assert [row["person_key"] for row in found] == [uuid.UUID(PERSON[2])]


def test_a_lead_link_that_was_lost_is_fixed_again_and_all_tests_are_green_again(
    make_database: Callable[[str], Settings], compiled: dict[str, Node], tmp_path: Path
) -> None:
    settings = make_fixed_world(make_database("template_built"), tmp_path)
    red = "criterion_5_released_drivers_without_lead"
    with open_connection(settings) as connection:
        connection.execute(f"delete from canon.identity_links where {RECONSTRUCTED}")  # type: ignore[arg-type]
        connection.execute("delete from observational.lead_events where source_pk = '2'")
        connection.commit()
        assert violations(connection, compiled[red])
    fix(settings, tmp_path)
    with open_connection(settings) as connection:
        still_red = {
            name: found
            for name, test in compiled.items()
            if (found := violations(connection, test))
        }
    assert not still_red


# --- Generic tests --------------------------------------------------------------------------------

SAMPLES = {
    "uuid": f"'{PERSON[9]}'::uuid",
    "integer": "987654::integer",
    "bigint": "987654::bigint",
    "date": "date '1999-09-09'",
    "text": "'no such value'::text",
    "character varying": "'no such value'::varchar",
}


def columns_of(connection: Connection, relation: str) -> dict[str, str]:
    found = connection.execute(
        "select attname, format_type(atttypid, atttypmod) as type from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
        [relation],
    )
    return {row["attname"]: row["type"] for row in found}


def append_row(connection: Connection, relation: str, filled: set[str], times: int = 1) -> None:
    """Make a view or seed show such a row: samples in the filled columns, null in the others."""
    columns = columns_of(connection, relation)
    row = "select " + ", ".join(
        SAMPLES[type_] if name in filled else f"null::{type_}" for name, type_ in columns.items()
    )
    is_view = connection.execute(
        "select relkind = 'v' as is_view from pg_class where oid = %s::regclass", [relation]
    ).fetchone()
    assert is_view
    if is_view["is_view"]:
        query = "select * from {definition}" + f" union all {row}" * times
        connection.execute(redefine(relation, query))  # type: ignore[arg-type]
    else:
        connection.execute(f"insert into {relation} " + " union all ".join([row] * times))  # type: ignore[arg-type]


def reds(
    connection: Connection, test: Node, relation: str, filled: set[str], times: int = 1
) -> bool:
    """Whether the test is red with such rows."""
    append_row(connection, relation, filled, times)
    is_red = bool(violations(connection, test))
    connection.rollback()
    return is_red


def generic_tests(compiled: dict[str, Node], kind: str) -> list[tuple[Node, str]]:
    """The generic tests of that kind, with the relation that each one looks at."""
    found = []
    for node in compiled.values():
        if (node.get("test_metadata") or {}).get("name") == kind:
            _, _, name = node["attached_node"].split(".")
            schema = re.search(rf'"(\w+)"\."{name}"', node["compiled_code"])
            assert schema, node["compiled_code"]
            found.append((node, f"{schema[1]}.{name}"))
    return found


def test_every_key_test_goes_red_by_a_null_and_by_a_second_row(
    connection: Connection, compiled: dict[str, Node]
) -> None:
    wrong = []
    tests = generic_tests(compiled, "key")
    for test, relation in tests:
        key = set(test["test_metadata"]["kwargs"]["columns"])
        assert violations(connection, test) == [], test["name"]
        for column in key:
            if not reds(connection, test, relation, key - {column}):
                wrong.append(f"{test['name']}: green with null in {column}")
        if not reds(connection, test, relation, key, times=2):
            wrong.append(f"{test['name']}: green with a second row")
        if reds(connection, test, relation, key):
            wrong.append(f"{test['name']}: red with one row more")
    assert len(tests) > 20
    assert not wrong


def test_every_one_of_test_goes_red_by_an_unknown_word_and_by_a_null(
    connection: Connection, compiled: dict[str, Node]
) -> None:
    tests = generic_tests(compiled, "one_of")
    for test, relation in tests:
        column = test["test_metadata"]["kwargs"]["column_name"]
        assert violations(connection, test) == [], test["name"]
        assert reds(connection, test, relation, {column}), f"{test['name']}: green with a word"
        assert reds(connection, test, relation, set()), f"{test['name']}: green with null"
    assert tests


# --- None is left out -----------------------------------------------------------------------------


def test_every_data_test_has_a_case_here(compiled: dict[str, Node]) -> None:
    singular = {name for name, node in compiled.items() if not node.get("test_metadata")}
    assert singular == {case.test for case in CASES}
    generic = {
        node["test_metadata"]["name"] for node in compiled.values() if node.get("test_metadata")
    }
    assert generic <= {"key", "one_of"}, "a kind of generic test without a case"


def test_only_the_warnings_are_warnings_and_none_has_a_tolerance(compiled: dict[str, Node]) -> None:
    for name, node in compiled.items():
        config = node["config"]
        severity = "WARN" if name.startswith("warning_") else "ERROR"
        assert config["severity"].upper() == severity, name
        assert (config["error_if"], config["warn_if"]) == ("!= 0", "!= 0"), name
        assert (config["limit"], config["where"]) == (None, None), name
        assert (node["schema"], config["store_failures_as"]) == (AUDIT, "view"), name


# --- The acceptance SQL, word for word ------------------------------------------------------------


def statements_of(text: str) -> list[list[str]]:
    """The words of each statement, without comments."""
    code = re.sub(r"^\s*--.*$", "", text, flags=re.MULTILINE)
    return [words for statement in code.split(";") if (words := statement.split())]


def test_the_verification_sql_is_that_of_the_instructions_word_for_word() -> None:
    text = (ROOT / "scripts/verify_no_orphans_outside_quarantine.sql").read_text("utf-8")
    assert statements_of(text) == [statement.split() for statement in VERBATIM]


def test_the_verification_sql_counts_zero_after_the_fix_and_more_when_it_is_spoilt(
    connection: Connection,
) -> None:
    def counts() -> list[int]:
        found = (connection.execute(statement).fetchone() for statement in VERBATIM)  # type: ignore[call-overload]
        return [next(iter(row.values())) for row in found]

    assert counts() == [0, 0, 0, 0, 0]
    connection.execute(link(7, "drivers", DRIVER[8]))  # type: ignore[arg-type]
    assert counts() == [1, 0, 0, 0, 1]
    connection.rollback()
    connection.execute(EXCLUDE_NOBODY)  # type: ignore[arg-type]
    in_funnel, in_payments, in_eligible = counts()[1:4]
    assert (in_funnel, in_eligible) == (1, 1)
    assert in_payments > 0


# --- Real runs ------------------------------------------------------------------------------------


def dbt_test(settings: Settings, target: Path, *arguments: str) -> tuple[int, dict[str, str]]:
    """Run `dbt test` with the parity switched on; return exit code and status by test."""
    done = run_command(
        *("dbt", "test", "--vars", PARITY, *arguments),
        settings=settings,
        DBT_TARGET_PATH=str(target),
    )
    results = json.loads((target / "run_results.json").read_text())["results"]
    statuses = {result["unique_id"].split(".")[2]: result["status"] for result in results}
    assert statuses, done.stdout + done.stderr
    return done.returncode, statuses


def test_dbt_test_is_green_after_the_fix_and_ran_every_data_test(green_run: dict[str, Any]) -> None:
    assert green_run["exit_code"] == 0
    assert green_run["statuses"] == dict.fromkeys(green_run["tests"], "pass")


def test_every_unit_test_of_dbt_is_green(
    built_database: Settings, run: Run, tmp_path: Path
) -> None:
    done = run(
        *("dbt", "test", "--select", "test_type:unit"),
        settings=built_database,
        DBT_TARGET_PATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "run_results.json").read_text())["results"]
    assert len(results) > 80
    assert {result["status"] for result in results} == {"pass"}


def test_dbt_test_exits_by_severity_and_keeps_the_violating_rows_as_live_views(
    make_database: Callable[[str], Settings], tmp_path: Path
) -> None:
    """One story: spoilt, then mended; CT4's views compared in both."""
    settings = make_fixed_world(make_database("template_built"), tmp_path)
    criterion = "criterion_1_drivers_without_lead_outside_quarantine"
    warning = "warning_malformed_lead_events"
    parity = ["parity_conversions_with_ct4", "parity_milestones_with_ct4"]
    some = ["--select", criterion, warning, *parity]
    kept = f"select driver_id from {AUDIT}.{criterion}"

    with open_connection(settings) as connection:
        definitions = {
            view: connection.execute(
                "select pg_get_viewdef(%s::regclass) as text", [view]
            ).fetchone()["text"]  # type: ignore[index]
            for view in (CONVERSIONS, MILESTONES)
        }
        for statements in (
            link(7, "drivers", DRIVER[8]),
            event("module_ct_migrations", "null"),
            altered(CONVERSIONS, CONVERSION_COLUMNS, "origin_tag = 'fair'", "trips_7d", "999"),
            altered(MILESTONES, MILESTONE_COLUMNS, "milestone_value = 25", "achieved_date", "null"),
        ):
            connection.execute(statements)  # type: ignore[arg-type]
    exit_code, statuses = dbt_test(settings, tmp_path, *some)
    assert exit_code == 1
    assert statuses == {criterion: "fail", warning: "warn"} | dict.fromkeys(parity, "fail")

    with open_connection(settings) as connection:
        connection.autocommit = True
        assert connection.execute(kept).fetchall() == [driver(8)]  # type: ignore[arg-type]
        connection.execute(link(7, "drivers", DRIVER[9]))  # type: ignore[arg-type]
        found = connection.execute(f"{kept} order by 1").fetchall()  # type: ignore[arg-type]
        assert found == [driver(8), driver(9)], "live, without another run"
        fix(settings, tmp_path)
        assert connection.execute(kept).fetchall() == []  # type: ignore[arg-type]
        for view, definition in definitions.items():
            connection.execute(f"create or replace view {view} as {definition}")  # type: ignore[arg-type]
    exit_code, statuses = dbt_test(settings, tmp_path, *some)
    assert exit_code == 0, "a warning alone is no failure"
    assert statuses == {criterion: "pass", warning: "warn"} | dict.fromkeys(parity, "pass")


def test_an_empty_database_does_not_pass_for_a_verified_one(
    built_database: Settings, compiled: dict[str, Node]
) -> None:
    with open_connection(built_database) as connection:
        found = violations(connection, compiled["looked_at_something"])
    assert {row["what"] for row in found} == {
        "driver links",
        "lead links",
        "lead events",
        "daily summaries",
    }
