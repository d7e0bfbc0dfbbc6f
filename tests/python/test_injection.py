"""Injection: whatever comes in by an argument, a file, a variable or a field of CT4's is data.

Each bad input is a test: it ends with a documented exit code and at most one line on stderr, every
character of what is printed can be printed, and the database has exactly what it had.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import run_command
from ct4_orphans import cli, embedded, rollback
from ct4_orphans import fix as fixing
from ct4_orphans.database import Settings, connect
from older import execute, query
from psycopg.types.json import Json

MEGABYTE = 1_000_000
TEXTS = {
    "a quote": "o'brien",
    "two quotes": "''",
    "double quotes": '"drop"',
    "a backslash": "back\\slash\\",
    "escapes": "\\n\\t\\x00\\u0000\\101",
    "the end of a copy": "\\.",
    "null of a copy": "\\N",
    "percent s": "%s %d %n %%",
    "percent x": "%(driver_id)s %(x)s %(",
    "braces": "{} {0} {driver_id} {{}} }{",
    "jinja": "{{ 7 * 7 }} {% raw %} {# #} {{ env_var('DB_PASSWORD') }}",
    "dollars": "$$ $1 $body$ ${HOME} $(id) `id`",
    "drop table": "x'; drop table canon.identity_links; --",
    "or 1 = 1": "' or '1'='1' /* ",
    "a placeholder": ":x :'x' ?",
    "a comment": "-- /* */ #",
    "an option": "--execute",
    "a dash": "-",
    "a formula": "=cmd|' /C calc'!A1",
    "a path": "../../../etc/passwd",
    "a connection": "host=evil dbname=x user=y",
    "an uri": "postgresql://u:p@evil/x?sslmode=disable",
    "spaces": " lead and trail ",
    "a comma": "a,b;c|d\u00a0e",
    "null": "null",
    "not a number": "NaN",
    "infinity": "-Infinity",
    "a huge number": "9" * 400,
    "a wildcard": "%_*?[a]",
    "markup": "<script>alert(1)</script>&lt;",
    "umlauts": "ñandú ÄÖÜ ß ı İ ſ",
    "combining": "e\u0301\u0327 Z\u0351\u036b\u0343",
    "an emoji": "👻 👩\u200d👩\u200d👧",
    "right to left": "\u202eabc\u202c \u2066x\u2069 \u200f",
    "zero width": "a\u200bb\u200c\u200d\ufeffc",
    "ansi": "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "c1 control": "\x9b31m \x85 \x90",
    "crlf": "one\r\ntwo\rthree\nError: four",
    "tab and bell": "a\tb\x07\x08\x7f",
    "separators": "a\u2028b\u2029c\x1c\x1d",
    "no character": "\uffff\ufffe \U0010ffff \ue000",
    "not utf-8": "caf\udce9 \udcff\udc80",
    "a megabyte": "x" * MEGABYTE,
}
# What PostgreSQL can hold (not: half a surrogate), and cut to what fits into an index (not: a MB).
IN_THE_DATABASE = {name: text for name, text in TEXTS.items() if name != "not utf-8"}
each_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
each_kept_text = pytest.mark.parametrize("name", IN_THE_DATABASE)


def id_of(name: str) -> str:
    return TEXTS[name][:200]


def person_of(name: str) -> uuid.UUID:
    return uuid.UUID(hashlib.md5(name.encode()).hexdigest())


@pytest.fixture(scope="module")
def hostile(
    server: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Path]]:
    """Every text as an id, rule, lead row, payload, evidence and origin; planned, then fixed."""
    name = f"test_hostile_{os.getpid()}"
    settings = embedded.recreate_database(server, name, template="template_built")
    fill_hostile(settings)
    reports = tmp_path_factory.mktemp("hostile")
    for mode in ("dry-run", "execute"):
        code, out, err = invoke(settings, "fix", f"--{mode}", "--output-dir", str(reports / mode))
        assert code == 0, err
        assert_printable(out + err)
    yield settings, reports
    execute(server, f"drop database {name} with (force)")


def fill_hostile(settings: Settings) -> None:
    with connect(settings) as connection, connection.transaction():
        for number, (name, text) in enumerate(IN_THE_DATABASE.items(), start=1):
            connection.execute(
                "insert into canon.identity_registry (person_key, primary_full_name)"
                " values (%s, %s)",
                [person_of(name), text],
            )
            connection.execute(
                "insert into canon.identity_links (person_key, source_table, source_pk,"
                " snapshot_date, match_rule, match_score, confidence_level, evidence) values"
                " (%s, 'drivers', %s, '2025-03-01', %s, 90, 'HIGH', %s)",
                [person_of(name), id_of(name), text, Json({text: text, "nested": [text]})],
            )
            connection.execute(
                "insert into observational.lead_events"
                " (source_table, source_pk, event_date, payload_json) values (%s, %s, %s, %s)",
                [
                    "module_ct_migrations",
                    id_of(name),
                    "2025-03-10",
                    Json(
                        {
                            text: text,
                            # Every third one is not named, and stays in quarantine.
                            "driver_id": id_of(name) if number % 3 else f"not {id_of(name)}",
                            "driver_license": "" if number % 3 else text,
                            "driver_phone": text,
                            "origin_tag": text,
                        }
                    ),
                ],
            )


def invoke(settings: Settings, *words: str, **variables: str) -> tuple[int, str, str]:
    """Run a command in this process; a traceback fails the test."""
    runner = CliRunner(env=settings.environment() | variables)
    result = runner.invoke(cli.main, words, prog_name="orphans")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise AssertionError("this would be a traceback") from result.exception
    return result.exit_code, result.stdout, result.stderr


def assert_printable(text: str) -> None:
    odd = {character for character in text if not character.isprintable()} - {"\n"}
    assert odd == set()


def assert_one_clear_line(found: tuple[int, str, str], *codes: int) -> None:
    """A documented exit code, and one line that says why; wrong usage says how to get help too."""
    code, out, err = found
    assert code in codes, out + err
    assert_printable(out + err)
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == (1 if code else 0), err
    assert code in (0, 2) or len(err.splitlines()) == 1, err


def everything(settings: Settings) -> list[Any]:
    """Every row of every table that a command could write to, in one word each."""
    return [
        query(
            settings, f"select count(*), md5(string_agg(x::text, '|' order by x::text)) from {t} x"
        )
        for t in (
            "canon.identity_registry",
            "canon.identity_links",
            "canon.driver_orphan_quarantine_ledger",
            "observational.lead_events",
        )
    ]


# --- Fields of CT4's ------------------------------------------------------------------------------


@each_kept_text
def test_a_driver_of_any_name_is_fixed_and_kept_exactly(
    hostile: tuple[Settings, Path], name: str
) -> None:
    settings, _ = hostile
    found = query(
        settings,
        "select creation_rule, status::text, evidence_json -> 'lead_rows' -> 0 ->> 'source_pk'"
        " from canon.driver_orphan_quarantine where driver_id = %s",
        id_of(name),
    )
    is_named = (list(IN_THE_DATABASE).index(name) + 1) % 3
    if is_named:
        assert found == [(TEXTS[name], "resolved_relinked", id_of(name))]
    else:
        assert found == [(TEXTS[name], "quarantined", None)]
    link = query(
        settings,
        "select evidence ->> 'nested', evidence ->> %s, match_rule from canon.identity_links"
        " where source_table = 'drivers' and source_pk = %s",
        TEXTS[name],
        id_of(name),
    )
    assert json.loads(link[0][0]) == [TEXTS[name]]
    assert link[0][1:] == (TEXTS[name], TEXTS[name])
    assert query(settings, "select 1 from ops.v_driver_orphans where driver_id = %s", id_of(name))


@each_kept_text
@pytest.mark.parametrize("mode", ["dry-run", "execute"])
def test_the_reports_have_any_name_exactly(
    hostile: tuple[Settings, Path], name: str, mode: str
) -> None:
    (as_json,) = (hostile[1] / mode).glob("*.json")
    drivers = json.loads(as_json.read_text("utf-8"))["drivers"]
    (row,) = [row for row in drivers if row["person_key"] == str(person_of(name))]
    assert (row["driver_id"], row["creation_rule"]) == (id_of(name), TEXTS[name])
    csv.field_size_limit(10 * MEGABYTE)
    (as_csv,) = (hostile[1] / mode).glob("*.csv")
    with as_csv.open(encoding="utf-8", newline="") as file:
        (cells,) = [r for r in csv.DictReader(file) if r["person_key"] == str(person_of(name))]
    assert cells["driver_id"] in (id_of(name), f"'{id_of(name)}")
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells.values())


@each_kept_text
def test_the_ledgers_export_has_any_name_exactly(
    hostile: tuple[Settings, Path], exported: list[dict[str, str]], name: str
) -> None:
    (row,) = [row for row in exported if row["person_key"] == str(person_of(name))]
    assert (row["driver_id"], row["creation_rule"]) == (id_of(name), TEXTS[name])


@pytest.fixture(scope="module")
def exported(hostile: tuple[Settings, Path]) -> list[dict[str, str]]:
    csv.field_size_limit(10 * MEGABYTE)
    with connect(hostile[0], read_only=True) as connection:
        (path, _), _ = rollback.export_ledger(
            connection, hostile[1] / "export", fixing.database_time(connection)
        )
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@each_kept_text
def test_explain_shows_any_driver_printably(hostile: tuple[Settings, Path], name: str) -> None:
    settings, _ = hostile
    words = ["explain", "--", id_of(name)]
    found = invoke(settings, *words)
    if not id_of(name).isprintable():  # nobody can type it: it is in the reports
        assert_one_clear_line(found, 1)
        return
    assert_one_clear_line(found, 0)
    code, out, _ = invoke(settings, "explain", "--json", "--", id_of(name))
    assert code == 0
    assert_printable(out)
    assert json.loads(out)["driver_id"] == id_of(name)


@each_kept_text
def test_the_rules_of_others_are_shown_printably(
    hostile: tuple[Settings, Path], name: str, shown: Callable[[str], str]
) -> None:
    # A driver with a plain id, whose link has the text for a rule and its ledger for a reason.
    assert_printable(shown(name))


@pytest.fixture
def shown(hostile: tuple[Settings, Path]) -> Iterator[Callable[[str], str]]:
    settings, _ = hostile
    driver = "0" * 32

    def show(name: str) -> str:
        person = uuid.uuid4()
        with connect(settings) as connection:
            connection.execute(
                "insert into canon.identity_registry (person_key) values (%s)", [person]
            )
            connection.execute(
                "insert into canon.identity_links (person_key, source_table, source_pk,"
                " snapshot_date, match_rule, match_score, confidence_level, evidence) values"
                " (%s, 'drivers', %s, '2025-03-01', %s, 90, 'HIGH', %s)",
                [person, driver, TEXTS[name], Json({TEXTS[name]: TEXTS[name]})],
            )
            connection.execute(
                "insert into canon.driver_orphan_quarantine"
                " (driver_id, person_key, detected_reason, creation_rule, evidence_json,"
                " resolution_notes) values (%s, %s, 'manual_detection', %s, %s, %s)"
                if not connection.execute(
                    "select 1 from canon.driver_orphan_quarantine where driver_id = %s", [driver]
                ).fetchone()
                else "update canon.driver_orphan_quarantine set driver_id = %s, person_key = %s,"
                " creation_rule = %s, evidence_json = %s, resolution_notes = %s"
                f" where driver_id = '{driver}'",
                [driver, person, TEXTS[name], Json({"explanation": TEXTS[name]}), TEXTS[name]],
            )
        in_words, as_json = (invoke(settings, "explain", *m, driver) for m in ([], ["--json"]))
        assert (in_words[0], as_json[0]) == (0, 0), in_words[2] + as_json[2]
        assert json.loads(as_json[1])["quarantine"]["resolution_notes"] == TEXTS[name]
        return in_words[1] + as_json[1]

    yield show
    execute(settings, "delete from canon.identity_links where source_pk = repeat('0', 32)")


# --- Arguments ------------------------------------------------------------------------------------

PLAIN = "a" * 32
POSITIONS: dict[str, tuple[list[str], tuple[int, ...]]] = {
    "explain ID": (["explain", "--", "TEXT"], (0, 1)),
    "resolve ID": (
        ["resolve", "--status", "purged", "--note", "n", "--dry-run", "--", "TEXT"],
        (0, 2, 4),
    ),
    "resolve --note": (
        ["resolve", "o'brien", "--status", "purged", "--dry-run", "--note=TEXT"],
        (0, 2),
    ),
    "resolve --status": (["resolve", PLAIN, "--note", "n", "--status=TEXT"], (2,)),
    "resolve --reason": (
        ["resolve", PLAIN, "--status", "quarantined", "--note", "n", "--reason=TEXT"],
        (2,),
    ),
    "undo": (["undo", "--", "TEXT"], (2,)),
    "fix --limit": (["fix", "--output-dir", "HERE", "--limit=TEXT"], (2,)),
    "fix --plan": (["fix", "--output-dir", "HERE", "--execute", "--plan=TEXT"], (2, 5)),
    "fix --output-dir": (["fix", "--output-dir=TEXT"], (0, 2, 5)),
    "deploy --from": (["deploy", "--from=TEXT"], (2,)),
    "deploy --only": (["deploy", "--only=TEXT"], (2,)),
    "an option": (["fix", "--TEXT"], (2,)),
    "one word more": (["verify", "TEXT"], (0, 2)),
    "a command": (["TEXT"], (2,)),
}


@each_text
@pytest.mark.parametrize("position", POSITIONS)
def test_whatever_an_argument_is_it_is_only_a_value(
    hostile: tuple[Settings, Path],
    untouched: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    position: str,
    text: str,
) -> None:
    words, codes = POSITIONS[position]
    monkeypatch.chdir(tmp_path)  # a directory of that name is made here
    words = [word.replace("TEXT", text).replace("HERE", str(tmp_path)) for word in words]
    if position in ("one word more", "a command") and text.startswith("-"):
        words = [*words[:-1], f"x{text}"]
    found = invoke(hostile[0], *words)
    assert_one_clear_line(found, *codes)


@pytest.fixture(scope="module")
def untouched(hostile: tuple[Settings, Path]) -> Iterator[None]:
    before = everything(hostile[0])
    yield
    assert everything(hostile[0]) == before


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "caf\udce9"],
        ["resolve", "caf\udce9", "--status", "purged", "--note", "n"],
        ["resolve", "x", "--status", "purged", "--note", "caf\udce9 \x1b[31m"],
        ["undo", "caf\udce9\x1b[31m"],
        ["fix", "--output-dir", "/tmp/caf\udce9/x"],
        ["fix", "--plan", "caf\udce9", "--execute"],
        ["rollback", "--output-dir", "\x1b[31m\n", "--dry-run"],
        ["verify", "\x1b[31m caf\udce9"],
        ["--\x1b[31mcaf\udce9"],
        ["caf\udce9\r\n"],
    ],
    ids=repr,
)
def test_bytes_that_are_no_text_end_a_real_command_in_one_line(
    hostile: tuple[Settings, Path], words: list[str]
) -> None:
    done = run_command("orphans", *words, settings=hostile[0])
    assert "Traceback" not in done.stderr
    assert_one_clear_line((done.returncode, done.stdout, done.stderr), 1, 2, 5)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_no_terminal_is_too_narrow_for_what_is_printed(
    hostile: tuple[Settings, Path], encoding: str
) -> None:
    for name, more in (("umlauts", []), ("combining", ["--json"])):
        done = run_command(
            *("bash", "-c", 'exec "$@" > /dev/null', "bash"),
            *("orphans", "explain", *more, TEXTS[name]),
            settings=hostile[0],
            PYTHONIOENCODING=encoding,
        )
        assert (done.returncode, done.stderr) == (0, "")


# --- Variables ------------------------------------------------------------------------------------


@each_text
@pytest.mark.parametrize("variable", ["DB_NAME", "DB_USER", "DB_PORT", "DB_SSLMODE", "DB_HOST"])
def test_whatever_a_variable_is_it_is_only_a_value(
    hostile: tuple[Settings, Path], tmp_path: Path, variable: str, text: str
) -> None:
    if variable == "DB_HOST":
        text = f"/no/such/{text}"
    found = invoke(hostile[0], "fix", "--output-dir", str(tmp_path), **{variable: text})
    assert_one_clear_line(found, 3)
    assert list(tmp_path.iterdir()) == []


@each_text
def test_whatever_the_password_is_it_is_only_a_value(
    hostile: tuple[Settings, Path], tmp_path: Path, text: str
) -> None:
    if len(text) > 1000:
        text = text[:1000]
    found = invoke(hostile[0], "fix", "--output-dir", str(tmp_path), DB_PASSWORD=text)
    assert_one_clear_line(found, 0, 3)  # 3: what is no UTF-8 is no password either
    assert text.strip() == "-" or len(text) < 3 or text not in found[2]


# --- Plans ----------------------------------------------------------------------------------------


def plan_file(**changes: Any) -> bytes:
    return json.dumps(a_plan() | changes).encode()


def a_plan(**row: Any) -> dict[str, Any]:
    return {
        "mode": "dry-run",
        "database": f"test_hostile_{os.getpid()}",
        "drivers": [{"driver_id": PLAIN, "fingerprint": "f" * 64} | row],
        "stats": {},
    }


def row_file(**row: Any) -> bytes:
    return json.dumps(a_plan(**row)).encode()


def text_file(old: str, new: str) -> bytes:
    whole = json.dumps(a_plan())
    assert old in whole
    return whole.replace(old, new).encode()


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


PLANS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "no keys": b"{}",
    "a text": b'"x"',
    "a number": b"123",
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "1e999": b"1e999",
    "5,000 digits": b"1" * 5000,
    "half a file": json.dumps(a_plan()).encode()[:-9],
    "two files": json.dumps(a_plan()).encode() * 2,
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(a_plan()).encode(),
    "utf-16": json.dumps(a_plan()).encode("utf-16"),
    "not utf-8": b'{"mode": "\xff\xfe"}',
    "nul bytes": b"\0" * 1000,
    "nul in between": json.dumps(a_plan()).encode().replace(b"dry", b"d\0y"),
    "a megabyte of spaces": b" " * MEGABYTE,
    "5,000 lists": nested(5000).encode(),
    "5,000 objects": nested(5000, '{"a":', "}").encode(),
    "500,000 lists": nested(500_000).encode(),
    "mode null": plan_file(mode=None),
    "mode a list": plan_file(mode=["dry-run"]),
    "mode with a line": plan_file(mode="dry-run\n"),
    "mode NaN": text_file('"dry-run"', "NaN"),
    "mode twice": text_file('"mode":', '"mode": "dry-run", "mode": "execute", "mode2":'),
    "database null": plan_file(database=None),
    "database ansi": plan_file(database=TEXTS["ansi"] + TEXTS["crlf"]),
    "database surrogate": text_file(f'"test_hostile_{os.getpid()}"', '"\\ud800"'),
    "database nested": text_file(f'"test_hostile_{os.getpid()}"', nested(900)),
    "database a megabyte": plan_file(database="x" * MEGABYTE),
    "database 1e999": text_file(f'"test_hostile_{os.getpid()}"', "1e999"),
    "drivers null": plan_file(drivers=None),
    "drivers an object": plan_file(drivers={"a": 1}),
    "drivers a text": plan_file(drivers="abc"),
    "drivers a number": plan_file(drivers=5),
    "drivers of lists": plan_file(drivers=[[1, 2]]),
    "drivers of null": plan_file(drivers=[None]),
    "no stats": json.dumps({k: v for k, v in a_plan().items() if k != "stats"}).encode(),
    "driver null": row_file(driver_id=None),
    "driver true": row_file(driver_id=True),
    "driver a number": row_file(driver_id=12345),
    "driver huge": text_file(f'"{PLAIN}"', "9" * 4000),
    "driver NaN": text_file(f'"{PLAIN}"', "NaN"),
    "driver a list": row_file(driver_id=[]),
    "driver an object": row_file(driver_id={"a": 1}),
    "driver nested": text_file(f'"{PLAIN}"', nested(900)),
    "driver with nul": row_file(driver_id="a\0b"),
    "driver half a pair": text_file(f'"{PLAIN}"', '"\\ud800"'),
    "driver the other half": text_file(f'"{PLAIN}"', '"x\\udfffy"'),
    "driver a whole pair": text_file(f'"{PLAIN}"', '"\\ud83d\\udc7b"'),
    "driver twice": plan_file(
        drivers=[{"driver_id": PLAIN, "fingerprint": f * 64} for f in ("f", "e")]
    ),
    "fingerprint null": row_file(fingerprint=None),
    "fingerprint short": row_file(fingerprint="f" * 63),
    "fingerprint with a line": row_file(fingerprint="f" * 64 + "\n"),
    "fingerprint upper case": row_file(fingerprint="F" * 64),
    "fingerprint in other digits": row_file(fingerprint="٣" * 64),
    "fingerprint a list": row_file(fingerprint=["f" * 64]),
    "fingerprint percent": row_file(fingerprint="%s" * 32),
    "fingerprint zero": row_file(fingerprint="0" * 64),
    "no fingerprint": plan_file(drivers=[{"driver_id": PLAIN}]),
    "10,000 strangers": plan_file(
        drivers=[{"driver_id": f"{n}'%s", "fingerprint": "f" * 64} for n in range(10_000)]
    ),
} | {
    f"driver {name}": row_file(driver_id=text)
    for name, text in IN_THE_DATABASE.items()
    if name != "a megabyte"
}


@pytest.mark.parametrize("content", PLANS.values(), ids=PLANS.keys())
def test_whatever_is_in_a_plan_nothing_happens_but_one_line(
    hostile: tuple[Settings, Path], untouched: None, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    found = invoke(
        hostile[0], "fix", "--execute", "--plan", str(path), "--output-dir", str(tmp_path / "out")
    )
    assert_one_clear_line(found, 1, 4, 5)
    assert len(found[2]) < 3000


# --- Values that are long or deep -----------------------------------------------------------------

DEEP = '{"a":' * 5000 + "1" + "}" * 5000
DEEP_LIST = "[" * 5000 + "]" * 5000
LONG: dict[str, str] = {
    "nested": f'{{"driver_id": {DEEP}, "driver": {DEEP}, "driver_phone": {DEEP_LIST}}}',
    "nested above": f'{{"driver_id": "{PLAIN}", "driver": {DEEP}, "x": {DEEP_LIST}}}',
    "nested alone": DEEP,
    "a list": DEEP_LIST,
    "phone, digits and letters": json.dumps({"driver_phone": "1a" * (MEGABYTE // 2)}),
    "phone, digits then letters": json.dumps({"park_phone": "1" * 500_000 + "a" * 500_000}),
    "phone, all characters": json.dumps(
        {"driver_phone": "1" * 100_000 + "".join(map(chr, range(160, 50_000)))}
    ),
    "licence": json.dumps({"driver_license": "Q-" * (MEGABYTE // 2)}),
    "id": json.dumps({"driver_id": "x" * MEGABYTE, "id": "y" * MEGABYTE}),
    "origin": json.dumps({"driver_id": PLAIN, "origin_tag": "z" * MEGABYTE}),
    "100,000 keys": json.dumps({f"key {n}": n for n in range(100_000)} | {"driver_id": PLAIN}),
}


@pytest.fixture
def deep(server: Settings) -> Iterator[Settings]:
    """An orphan whose link's evidence is 5,000 levels deep."""
    name = f"test_deep_{os.getpid()}"
    settings = embedded.recreate_database(server, name, template="template_built")
    with connect(settings) as connection:
        connection.execute(
            "insert into canon.identity_registry (person_key) values (%s)", [uuid.UUID(int=1)]
        )
        connection.execute(
            "insert into canon.identity_links (person_key, source_table, source_pk, snapshot_date,"
            " match_rule, match_score, confidence_level, evidence) values"
            " (%s, 'drivers', %s, '2025-03-01', 'RULE', 90, 'HIGH', %s)",
            [uuid.UUID(int=1), PLAIN, Json(DEEP, dumps=str)],
        )
    yield settings
    execute(server, f"drop database {name} with (force)")


@pytest.mark.parametrize("payload", LONG.values(), ids=LONG.keys())
def test_no_payload_is_too_long_or_too_deep(deep: Settings, tmp_path: Path, payload: str) -> None:
    execute(deep, "delete from observational.lead_events")
    with connect(deep) as connection:
        connection.execute(
            "insert into observational.lead_events (source_table, source_pk, event_date,"
            " payload_json) values ('module_ct_scouting_daily', 'L', '2025-03-10', %s)",
            [Json(payload, dumps=str)],
        )
    execute(deep, f"alter database {deep.dbname} set statement_timeout = '20s'")
    for words in (["fix", "--output-dir", str(tmp_path)], ["explain", PLAIN]):
        assert_one_clear_line(invoke(deep, *words), 0)
    for view in ("v_cabinet_funnel_status", "v_payment_calculation", "v_ct4_eligible_drivers"):
        query(deep, f"select count(*), max(x::text) from ops.{view} as x")


def test_a_driver_link_of_any_depth_is_purged_explained_and_put_back_exactly(
    deep: Settings, tmp_path: Path
) -> None:
    evidence = "select evidence::text from canon.identity_links where source_table = 'drivers'"
    before = query(deep, evidence)
    for words in (
        ["fix", "--execute", "--output-dir", str(tmp_path)],
        ["resolve", PLAIN, "--status", "purged", "--note", "n"],
        ["explain", PLAIN],
        ["explain", "--json", PLAIN],
        ["resolve", PLAIN, "--status", "quarantined", "--note", "n"],
        ["explain", PLAIN],
    ):
        assert_one_clear_line(invoke(deep, *words), 0)
    assert query(deep, evidence) == before
    run_id = query(
        deep,
        "select run_id::text from canon.driver_orphan_quarantine_ledger order by entry_id desc",
    )[0][0]
    assert_one_clear_line(invoke(deep, "undo", run_id), 0)
    assert_one_clear_line(invoke(deep, "explain", PLAIN), 0)


# --- dbt ------------------------------------------------------------------------------------------


def test_verify_names_drivers_of_any_name_printably(
    hostile: tuple[Settings, Path], tmp_path: Path
) -> None:
    settings, _ = hostile
    execute(settings, "create table canon.kept as select * from canon.identity_links")
    # Lost leads: everybody who was let out breaks a rule, and is named.
    execute(settings, "delete from canon.identity_links where source_table <> 'drivers'")
    try:
        done = run_command("orphans", "verify", settings=settings)
    finally:
        execute(
            settings,
            "insert into canon.identity_links select * from canon.kept on conflict do nothing;"
            " drop table canon.kept",
        )
    assert_one_clear_line((done.returncode, done.stdout, done.stderr), 1)
    assert "driver_id" in done.stdout
