"""The README tells the truth: commands, options, exit codes, names of tests."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from conftest import ROOT
from ct4_orphans import deploy, errors
from ct4_orphans.cli import EXIT_CODES, fix, main

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group = main, prefix: str = "") -> dict[str, click.Command]:
    """Every command by its words: `fix`, `guard install`. A group is none by itself."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = command
    return found


GROUPS = {name for name, command in main.commands.items() if isinstance(command, click.Group)}


def test_every_option_of_the_fix_is_in_the_readme_and_the_reverse() -> None:
    options = {name for option in fix.params for name in option.opts} - {"--help"}
    table = README[README.index("### The fix script") : README.index("An execute applies")]
    assert set(re.findall(r"--[a-z][a-z-]+", table)) == options


def test_the_exit_codes_are_those_of_help_and_of_the_errors() -> None:
    table = README[README.index("| exit code |") : README.index("## The tests")]
    in_readme = {int(code) for code in re.findall(r"^\| (\d) \|", table, re.MULTILINE)}
    in_help = {int(code) for code in re.findall(r"^ +(\d) ", EXIT_CODES, re.MULTILINE)}
    of_errors = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.OrphansError)
    }
    assert in_readme == in_help == of_errors | {0, 2}


def test_every_acceptance_test_is_explained() -> None:
    names = {path.stem for path in (ROOT / "tests/acceptance").glob("*.sql")}
    explained = README[README.index("## The tests") : README.index("## Where this differs")]
    prefix = "criterion_2_excluded_drivers"
    short = {name.replace(prefix, "") if name.startswith(prefix) else name for name in names}
    assert {name for name in short if f"`{name}`" not in explained} <= {"_in_funnel"}
    assert f"`{prefix}_in_funnel`" in explained


def test_the_runbook_names_every_phase_of_a_deploy_in_its_order() -> None:
    table = README[
        README.index("| phase of `orphans deploy` |") : README.index("The ledger and new")
    ]
    named = re.findall(r"^\| [^|]+ \| `([a-z-]+)`", table, re.MULTILINE)
    assert named == list(deploy.NAMES)


def test_every_orphans_command_and_option_that_is_named_exists() -> None:
    words = re.findall(r"`orphans ([^`]+)`", README)
    words += re.findall(r"^orphans ([^#\n]+)", README, re.MULTILINE)
    assert len(words) > 20
    named = set()
    for first, *arguments in map(str.split, words):
        name = f"{first} {arguments.pop(0)}" if first in GROUPS else first
        command = commands()[name]
        named.add(name)
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= options | {"--help"}, name
    assert named == set(commands()) - {"demo", "demo-shell", "demo-console"}, (
        "each is in the README"
    )


@pytest.mark.parametrize("path", re.findall(r"scripts/[\w/]+\.(?:py|sql)", README))
def test_every_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w./-]+):", Path(ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([\w./-]+)", README, re.MULTILINE)) <= targets
    assert {"demo", "test", "demo-shell"} <= targets


def test_every_command_has_help_with_an_example() -> None:
    for name, command in (main.commands | commands()).items():
        assert command.help, name
        assert "Example: " in (command.epilog or ""), name
