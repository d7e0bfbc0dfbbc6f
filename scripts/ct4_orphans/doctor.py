"""Everything that stands in the way of a deploy, at once, read-only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql

from ct4_orphans import adoption, guard, indexes, project, verify, views
from ct4_orphans.backup import find_pg_dump
from ct4_orphans.database import Connection, Settings, rows, statement, what_happened
from ct4_orphans.errors import DatabaseError, OrphansError, some

STOPS = "STOPS"  # a deploy stops there
LATER = "LATER"  # a deploy goes through, and its verification is red
NOTE = "note"
OLDEST_SERVER = 130_000
SCHEMAS = ("canon", "observational", "ops", "public")
VERSION_TABLE = "canon.ct4_orphans_alembic_version"


@dataclass(frozen=True)
class Finding:
    """One problem: how bad, with what, and what to do."""

    severity: str
    object: str
    problem: str
    remedy: str = ""


@dataclass(frozen=True)
class Contract:
    """What the dbt project declares: the sources it reads, the columns of its public views."""

    sources: list[dict[str, Any]]
    views: dict[str, list[tuple[str, str]]]
    skipped_rows: str


def examine(
    connection: Connection, settings: Settings, *, with_backup: bool = True
) -> list[Finding]:
    """Return all findings; a deploy would succeed if none of them is more than a note."""
    findings = list(_server(connection))
    if with_backup:
        findings += _backup(connection)
    no_ct4 = list(_missing_schemas(connection))
    if no_ct4:
        return findings + no_ct4
    try:
        contract = read_contract(settings)
    except DatabaseError as error:
        return [*findings, Finding(STOPS, "dbt", error.message)]
    findings += _rows(connection, "doctor_sources", {"sources": json.dumps(contract.sources)})
    checks = (
        _deployment,
        _ledger,
        _guard,
        _views,
        _empty,
        _skipped_rows,
        _history,
        _broken_rules,
        _indexes,
    )
    for check in checks:
        try:
            with connection.transaction():
                findings += check(connection, contract)
        except psycopg.errors.InsufficientPrivilege:
            pass  # what is missing is a finding of its own
        except psycopg.Error as error:
            findings.append(Finding(STOPS, "catalogue", f"cannot be read: {what_happened(error)}"))
    order = {STOPS: 0, LATER: 1, NOTE: 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def in_words(findings: list[Finding]) -> Iterator[str]:
    """Give the findings line by line."""
    for finding in findings:
        yield f"  {finding.severity:<6}{finding.object}: {finding.problem}"
        if finding.remedy:
            yield f"        {finding.remedy}"


def stops(findings: list[Finding]) -> list[Finding]:
    """Return those at which a deploy would stop."""
    return [finding for finding in findings if finding.severity == STOPS]


def read_contract(settings: Settings) -> Contract:
    """Ask dbt what the project declares. Raises DatabaseError with dbt's words if it cannot say."""
    code, output = project.run(
        "dbt", "--quiet", "compile", "--inline", "{{ skipped_rows() }}", settings=settings
    )
    if code:
        raise DatabaseError(
            f"{project.last_words(output)} (is there a profiles.yml? cp profiles.example.yml "
            "profiles.yml)"
        )
    manifest = project.artifact("manifest.json")
    sources = [
        {
            "name": f"{source['schema']}.{source['identifier']}",
            "schema": source["schema"],
            "identifier": source["identifier"],
            "is_required": not source["meta"].get("only_for_parity"),
            "columns": [
                {"name": column["name"], "type": column["data_type"]}
                for column in source["columns"].values()
            ],
        }
        for source in manifest["sources"].values()
        if not source["meta"].get("made_by_migration")
    ]
    public = {
        f"{node['schema']}.{node['alias']}": [
            (column["name"], column["data_type"]) for column in node["columns"].values()
        ]
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["access"] == "public"
    }
    return Contract(sources, dict(sorted(public.items())), output)


def revisions() -> list[str]:
    """Return the revisions of this version's migrations, the newest first."""
    config = Config(toml_file=project.ROOT / "pyproject.toml")
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]


def current_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, None if it was never migrated."""
    if not views.facts_of(connection, VERSION_TABLE):
        return None
    query = sql.SQL("select version_num from {}").format(sql.Identifier(*VERSION_TABLE.split(".")))
    found = rows(connection, query)
    return str(found[0]["version_num"]) if found else None


def existing_views(connection: Connection, contract: Contract) -> dict[str, views.Facts]:
    """Return the facts of the public views that exist, by name, whoever made them."""
    return views.facts_of(connection, *contract.views)


def _rows(connection: Connection, name: str, parameters: dict[str, Any]) -> list[Finding]:
    return [Finding(**row) for row in rows(connection, statement(name), parameters)]


def _server(connection: Connection) -> Iterator[Finding]:
    version = connection.info.server_version
    if version < OLDEST_SERVER:
        yield Finding(STOPS, "server", f"is PostgreSQL {version // 10_000}; 13 is the oldest")
    if rows(connection, "select 1 where pg_is_in_recovery()"):
        yield Finding(STOPS, "server", "is a standby, which only reads", "Use the primary.")
    if rows(
        connection,
        "select 1 from pg_db_role_setting where 'default_transaction_read_only=on' = any(setconfig)"
        " and (setrole = 0 or pg_get_userbyid(setrole) = current_user)"
        " and (setdatabase = 0 or setdatabase ="
        " (select oid from pg_database where datname = current_database()))",
    ):
        yield Finding(STOPS, "user", "is set to read only", "Use a user that may write.")


def _backup(connection: Connection) -> Iterator[Finding]:
    try:
        find_pg_dump(connection.info.server_version)
    except DatabaseError as error:
        yield Finding(STOPS, "backup", error.message)
    hidden = rows(
        connection,
        """
        select pg_namespace.nspname || '.' || pg_class.relname as name
        from pg_class
        inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
        where
            pg_class.relkind in ('r', 'p', 'm', 'S')
            and pg_namespace.nspname not in ('pg_catalog', 'information_schema')
            and pg_namespace.nspname not like 'pg\\_t%'
            and case
                when pg_class.relkind = 'S' then not has_sequence_privilege(pg_class.oid, 'select')
                else not has_table_privilege(pg_class.oid, 'select')
            end
        order by name
        """,
    )
    if hidden:
        user = sql.Identifier(connection.info.user).as_string(connection)
        yield Finding(
            STOPS,
            "backup",
            f"pg_dump must read everything, and this user may not read "
            f"{some([row['name'] for row in hidden], 3)}",
            f"From PostgreSQL 14 on:  grant pg_read_all_data to {user};  Or back up as another "
            "user, and say --no-backup.",
        )


def _missing_schemas(connection: Connection) -> Iterator[Finding]:
    query = (
        "select name from unnest(%s::text[]) as wanted (name)"
        " where not exists (select 1 from pg_namespace where nspname = name)"
    )
    for row in rows(connection, query, [list(SCHEMAS)]):
        yield Finding(
            STOPS, f"schema {row['name']}", "is missing: this is no CT4 database", "Check DB_NAME."
        )


def _version(connection: Connection) -> tuple[str | None, list[Finding]]:
    try:
        with connection.transaction():
            return current_revision(connection), []
    except psycopg.errors.InsufficientPrivilege:
        remedy = f"Its owner says:  grant select, update on {VERSION_TABLE} to "
        user = sql.Identifier(connection.info.user).as_string(connection)
        return None, [
            Finding(STOPS, VERSION_TABLE, "this user may not read it", f"{remedy}{user};")
        ]


def _deployment(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """The migration, an older table, and what this user may do."""
    known = revisions()
    current, unreadable = _version(connection)
    yield from unreadable
    to_replace = list(contract.views)
    enums: dict[str, tuple[str, str] | None] = {}
    if current not in (None, *known):
        yield Finding(
            STOPS,
            VERSION_TABLE,
            f"is at {current}, which this version does not know",
            "Use the version of this project that migrated it, or a newer one.",
        )
    try:
        if current is None and not unreadable:
            adoption.refuse_names_that_are_taken(connection)
        if adoption.is_older_table(connection):
            older = adoption.examine(connection)
            enums = dict(older.enums)
            to_replace += [adoption.NAME, *map(views.qualified, older.readers)]
            yield Finding(
                NOTE,
                adoption.NAME,
                "is a table of an older deployment: the migration adopts it; "
                f"{len(older.readers)} views read it and will read the new view",
            )
        else:
            enums = {name: adoption.existing_enum(connection, name) for name in adoption.ENUMS}
    except OrphansError as error:
        yield Finding(STOPS, adoption.NAME, error.message)
    if current != known[0] and current in (None, *known) and not unreadable:
        yield Finding(NOTE, "migration", f"is at {current or 'nothing'}; deploy goes to {known[0]}")
    yield from _rows(
        connection,
        "doctor_privileges",
        {
            "needs_migration": current != known[0],
            "needs_enums": not all(enums.values()),
            "to_replace": to_replace,
            "schemas_to_replace_in": sorted({name.split(".")[0] for name in to_replace}),
        },
    )


def _ledger(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """Whether the ledger still protects itself."""
    if current_revision(connection):
        yield from _rows(connection, "doctor_ledger", {})


def _guard(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """Whether the database keeps new orphans out."""
    if views.facts_of(connection, adoption.LEDGER):
        try:
            yield Finding(NOTE, "guard", guard.note(connection))
        except DatabaseError as error:
            yield Finding(NOTE, "guard", error.message)


def _enums(connection: Connection) -> dict[str, tuple[str, str] | None]:
    """Return the quarantine's enums as they are or will be; None where they will be made."""
    quarantine = views.facts_of(connection, adoption.NAME).get(adoption.NAME)
    if quarantine:
        columns = rows(connection, statement("older_quarantine"), {"oid": quarantine["oid"]})
        return {
            row["enum_of"]: (row["type_schema"], row["type_name"])
            for row in columns
            if row["enum_of"]
        }
    try:
        return {name: adoption.existing_enum(connection, name) for name in adoption.ENUMS}
    except OrphansError:
        return {}  # a finding of its own


def _views(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """Existing views whose columns are not the first columns of the contract."""
    enums = _enums(connection)
    for name, facts in existing_views(connection, contract).items():
        if facts["kind"] != "v":
            yield Finding(STOPS, name, "is no view", "Rename it or drop it, if nobody needs it.")
            continue
        expected = _expected(connection, contract.views[name], enums)
        found = [(column["name"], column["type"]) for column in facts["columns"]]
        differences = [
            f"column {position}: expected {' '.join(wanted) if wanted else 'no such column'}, "
            f"found {' '.join(has)}"
            for position, (has, wanted) in enumerate(
                zip(found, expected + [None] * len(found), strict=False), start=1
            )
            if has != wanted
        ]
        if differences:
            above, others = views.all_dependants_of(connection, name)
            readers = ", ".join([*map(views.qualified, above), *others]) or "nothing"
            yield Finding(
                STOPS,
                name,
                f"cannot be replaced in place: {'; '.join(differences)}",
                f"Rename it, or drop it; this depends on it: {readers}.",
            )


def _expected(
    connection: Connection,
    columns: list[tuple[str, str]],
    enums: dict[str, tuple[str, str] | None],
) -> list[tuple[str, str] | None]:
    """Return the contract's columns with their types as the server spells them."""
    types: list[sql.Composable] = []
    for _, data_type in columns:
        found = enums.get(data_type.removeprefix("public."))
        if found:
            types.append(sql.Identifier(*found))
        elif data_type.removeprefix("public.") in adoption.ENUMS:
            types.append(sql.SQL("text"))  # made by the migration: no view can have it yet
        else:
            types.append(sql.SQL(data_type))
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("set local search_path = pg_catalog")
        cursor.execute(
            sql.SQL("select {}").format(
                sql.SQL(", ").join(sql.SQL("null::{}").format(type_) for type_ in types)
            )
        )
        result = cursor.pgresult
        if result is None:
            return []
        spelled = rows(
            connection,
            "select format_type(oid, modifier) as type"
            " from unnest(%s::oid[], %s::int[]) with ordinality as types (oid, modifier, position)"
            " order by position",
            [
                [result.ftype(i) for i in range(len(types))],
                [result.fmod(i) for i in range(len(types))],
            ],
        )
    return [(name, row["type"]) for (name, _), row in zip(columns, spelled, strict=True)]


def _empty(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """What a verification would look at in vain."""
    yield from _rows(connection, "doctor_empty", {"lead_sources": verify.lead_sources()})


def _skipped_rows(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """Rows of CT4's tables that the rules skip."""
    for row in rows(connection, sql.SQL(contract.skipped_rows)):  # dbt's own words
        if row["rows_found"]:
            yield Finding(
                NOTE, row["relation"], f"rows with {row['reason']}: {row['rows_found']:,}"
            )


def _history(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """What a verification would say of the ledger's history, which no fix puts right."""
    if not views.facts_of(connection, adoption.NAME):
        yield from _rows(connection, "doctor_history", {})
        return
    for name in ("criterion_5_ledger_history_has_gaps", "criterion_5_relinks_and_ledger_disagree"):
        violations = f"{verify.AUDIT}.{name}"
        if views.facts_of(connection, violations):
            found = adoption.count(connection, violations)
            if found:
                yield Finding(
                    LATER, violations, f"rows that break it: {found:,}", "README, The tests."
                )


def _broken_rules(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """States of the quarantine that break a rule."""
    if not views.facts_of(connection, adoption.NAME):
        return
    parameters = {"lead_sources": verify.lead_sources()}
    for row in rows(connection, statement("broken_rules"), parameters):
        yield Finding(
            LATER if row["needs_a_person"] else NOTE,
            adoption.NAME,
            f"{row['problem']}: {some(row['drivers'])}",
            row["remedy"],
        )


def _indexes(connection: Connection, contract: Contract) -> Iterator[Finding]:
    """What would be faster with an index, on a table where that matters."""
    for advice in indexes.advice(connection):
        index = advice.index
        half_made = f" ({some(advice.half_made)} is half made)" if advice.half_made else ""
        schema = index.table.split(".")[0]
        is_in_the_way = index.name in advice.half_made
        drop = f"drop index concurrently {schema}.{index.name};  " if is_in_the_way else ""
        yield Finding(
            NOTE,
            index.table,
            f"no index on {index.column}{half_made}, at about {advice.rows:,} rows. With one, "
            f"{index.gain}",
            f"Nothing requires it. Its owner can say:  {drop}{index.create()};",
        )
