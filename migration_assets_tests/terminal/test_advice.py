"""Whoever does what a refusal advises gets on: in every state, for every command, until nothing is refused any more."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from migration_assets.cli import main
from migration_assets_tests.clones import Clones
from migration_assets_tests.confirmed_deeds import code_in
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import QUARTER

PROJECT = Path(__file__).parents[2]
READING = (
    "preflight", "status", "stream status", "readiness", "cutovers", "accept", "evidence verify",
    f"repair {QUARTER} W05", f"retire {QUARTER} W01", f"repair-legacy {QUARTER} W05", "repair-legacy --outside",
    "rollback", "decommission --approved-by Ada", "abandon", "query 'SELECT count(*) FROM bookings'",
)  # fmt: skip
CHANGING = (
    f"stream start {QUARTER}", f"stream start {QUARTER} --rebuild", "stream pause --reason why", "stream resume",
    "stream recover --by Ada", f"validate {QUARTER} W05", f"validate {QUARTER} --reconcile",
    f"repair {QUARTER} W05 --apply", f"sign-off {QUARTER} --approved-by Ada", "cutover --approved-by Ada",
    "cutover --approved-by Ada --for-real", "rollback --approved-by Ada --yes", "release-writes", "hold-again",
    f"repair-legacy {QUARTER} W05 --apply", f"archive {QUARTER} W01", f"archive {QUARTER} W01 --reread",
    f"retire {QUARTER} W01 --apply", f"restore {QUARTER} W01", f"restore {QUARTER} W01 --drill",
    "decommission --approved-by Ada --yes", "decommission --call-off", "abandon --yes", f"evidence write {QUARTER}",
)  # fmt: skip
"""Every command that a person types in the middle of a migration."""

_PLACES = {
    "approved_by": "--approved-by Ada", "by": "--by Ada", "reason": "--reason why", "quarter": str(QUARTER),
    "weeks": "W05", "week": "W05", "periods": f"{QUARTER} W05", "statement": "'SELECT 1'",
}  # fmt: skip


@dataclass
class Person:
    """Types commands, reads what they say, and does what they advise."""

    environment: dict[str, str]
    typed: list[str] = field(default_factory=list[str])

    def type(self, line: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, shlex.split(line), env=self.environment)
        self.typed.append(f"$ {line}\n{result.output}")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError("\n".join(self.typed)) from result.exception
        return result.exit_code, result.output

    def confirmed(self, look: str, deed: str) -> None:
        """Look, and do it with the code that this gives."""
        _, said = self.type(look)
        assert self.type(f"{deed} --confirm {code_in(said)}")[0] == 0, self.typed[-1]

    def follow(self, line: str) -> None:
        """Until a command works, or the advice is a person's own deed outside this program."""
        seen: list[str] = []
        while line not in seen and len(seen) < 6:
            seen.append(line)
            code, output = self.type(line)
            if code != 2:
                return
            assert "Next: " in output, "\n".join(self.typed)
            advised = list(commands_in(output.partition("Next: ")[2]))
            if not advised:
                return
            line = advised[0]
        raise AssertionError("advice that leads nowhere:\n" + "\n".join(self.typed))


def commands_in(text: str) -> Iterator[str]:
    """The commands that a text names, with arguments where it leaves them out."""
    for found in re.finditer(r"migration-assets ((?:[\w-]+|[\w.]+)(?: +(?:--)?[\w|=.-]+)*)", " ".join(text.split())):
        yield complete(found[1].split())


def complete(words: list[str]) -> str:
    """As a person types it; AssertionError where there is no such command or option."""
    command: click.Command = main
    path: list[str] = []
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        known = command.get_command(context, words[0])
        if known is None and path:
            break
        assert known is not None, f"there is no command {words[0]}"
        path.append(words.pop(0))
        command = known
    assert not isinstance(command, click.Group), f"{' '.join([*path, *words[:1]])} is no command"
    options = {name: one for one in command.params if isinstance(one, click.Option) for name in one.opts}
    line = list(path)
    given: set[str] = set()
    while words:
        if not words[0].startswith("--"):
            words.pop(0)
            continue
        option = options.get(words[0])
        assert option is not None, f"{' '.join(path)} has no option {words[0]}"
        line.append(words.pop(0))
        given.add(str(option.name))
        if not option.is_flag and words:
            line[-1] = _PLACES.get(str(option.name), f"{line[-1]} {words.pop(0)}")
    for one in command.params:
        wanted = one.required or isinstance(one, click.Argument)
        if wanted and one.name in _PLACES and one.name not in given:
            line.append(_PLACES[str(one.name)])
    return " ".join(line)


State = Callable[[CutoverGround, Person], object]


def _as_it_is(_ground: CutoverGround, _person: Person) -> None:
    pass


def _validated(_: CutoverGround, person: Person) -> None:
    assert person.type(f"validate {QUARTER} --reconcile")[0] == 0


def _signed(ground: CutoverGround, person: Person) -> None:
    _validated(ground, person)
    assert person.type(f"sign-off {QUARTER} --approved-by Ada")[0] == 0, person.typed[-1]


def _in_charge(ground: CutoverGround, person: Person) -> None:
    _signed(ground, person)
    assert ground.cut().outcome == "succeeded"


def _rolled_back(ground: CutoverGround, person: Person) -> None:
    _in_charge(ground, person)
    assert ground.back().outcome == "succeeded"


def _damaged(ground: CutoverGround, person: Person) -> None:
    _validated(ground, person)
    ground.run("base", "DELETE FROM bookings_fy25_q2_w05 WHERE id = (SELECT min(id) FROM bookings_fy25_q2_w05)")
    assert person.type(f"validate {QUARTER} W05")[0] != 0


def _legacy_damaged(ground: CutoverGround, person: Person) -> None:
    _in_charge(ground, person)
    ground.as_we("legacy", "UPDATE bookings SET guests = 77 WHERE id = 40")


def _paused(_: CutoverGround, person: Person) -> None:
    assert person.type("stream pause --reason why")[0] == 0


def _archived(ground: CutoverGround, person: Person) -> None:
    _signed(ground, person)
    assert person.type(f"archive {QUARTER} W01")[0] == 0, person.typed[-1]


def _retired(ground: CutoverGround, person: Person) -> None:
    _archived(ground, person)
    person.confirmed(f"retire {QUARTER} W01", f"retire {QUARTER} W01 --apply")


def _decommissioned(ground: CutoverGround, person: Person) -> None:
    _in_charge(ground, person)
    assert person.type("evidence write")[0] == 0, person.typed[-1]
    line = "decommission --approved-by Ada --scope table"
    person.confirmed(line, f"{line} --yes")


def _abandoned(_: CutoverGround, person: Person) -> None:
    person.confirmed("abandon", "abandon --yes")


def _slot_lost(ground: CutoverGround, _: Person) -> None:
    slot = ground.stream_record().slot
    with psycopg.connect(ground.databases.base_url, autocommit=True) as base:
        for what in ("DISABLE", "SET (slot_name = NONE)"):
            base.execute(sql.SQL("ALTER SUBSCRIPTION {} ").format(sql.Identifier(slot)) + sql.SQL(what))
    ground.one("legacy", "SELECT 1 FROM pg_drop_replication_slot(%s)", slot)


STATES: dict[str, State] = {
    "under CDC": _as_it_is,
    "signed off": _signed,
    "a week differs": _damaged,
    "paused": _paused,
    "slot lost": _slot_lost,
    "base in charge": _in_charge,
    "legacy differs": _legacy_damaged,
    "rolled back": _rolled_back,
    "archived": _archived,
    "retired": _retired,
    "decommissioned": _decommissioned,
    "abandoned": _abandoned,
}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    return {
        "MIGRATION_TABLE": "public.bookings", "MIGRATION_VAR": str(tmp_path / "var"),
        "MIGRATION_ARCHIVE_URL": str(tmp_path / "archive"), "MIGRATION_AS_OF": "2025-05-15T12:00:00Z",
        "MIGRATION_RETENTION_QUARTERS": "1", "MIGRATION_QUARANTINE_DAYS": "0", "MIGRATION_ROLLBACK_WINDOW_DAYS": "0",
        "MIGRATION_LEGACY_QUIET_DAYS": "0", "MIGRATION_RETRY_ATTEMPTS": "1", "COLUMNS": "1000",
    }  # fmt: skip


def test_every_command_that_a_text_names_is_there() -> None:
    """In the code's own texts and in the documentation: commands and their options."""
    files = [*(PROJECT / "migration_assets").rglob("*.py"), PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")]
    wrong: list[str] = []
    for file in files:
        for found in re.finditer(r"migration-assets ([a-z][^`\n;()]*)", file.read_text()):
            try:
                complete(re.split(r"[\s\"',:]+", found[1]))
            except AssertionError as error:
                wrong.append(f"{file.relative_to(PROJECT)}: {found[0]}: {error}")
    assert wrong == []


def test_every_option_that_a_text_names_by_itself_is_one_of_a_command() -> None:
    known = set(_options(main)) | {"--roles-only"}  # of pg_dumpall
    wrong = {
        f"{file.relative_to(PROJECT)}: {option}"
        for layer in ("archive", "commands", "defs", "domain", "postgres", "steps")
        for file in (PROJECT / "migration_assets" / layer).rglob("*.py")
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", file.read_text())
        if option not in known
    }
    assert wrong == set()


def _options(command: click.Command) -> Iterator[str]:
    for one in command.params:
        yield from (*one.opts, *one.secondary_opts)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from _options(inner)


# Each command that changes something is given in a database of its own: a few of them, in a few telling states, are
# enough for every day.
_TELLING = ("legacy differs",)
_OFTEN = tuple(
    one for one in CHANGING if one.split()[0] in {"validate", "repair", "repair-legacy", "rollback", "cutover"}
)


@pytest.mark.long
@pytest.mark.parametrize(
    "state", [state if state in _TELLING else pytest.param(state, marks=pytest.mark.soak) for state in STATES]
)
def test_advice_works_in_the_state_in_which_it_is_given(
    clones: Clones, shell: dict[str, str], state: str, soak: bool
) -> None:
    wrong: list[str] = []
    for lines in (READING, *((line,) for line in (CHANGING if soak else _OFTEN))):
        with clones.streamed(91) as databases:
            person = Person(
                {**shell, "MIGRATION_LEGACY_URL": databases.legacy_url, "MIGRATION_BASE_URL": databases.base_url}
            )
            assert person.type("preflight")[0] == 0, person.typed[-1]
            STATES[state](CutoverGround(databases), person)
            for line in lines:
                person.typed.clear()
                try:
                    person.follow(line)
                except AssertionError as error:
                    wrong.append(str(error))
    assert not wrong, "\n\n".join(wrong)
