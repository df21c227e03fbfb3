"""What a person confirms reaches the step that deletes: every command and every asset that may ask for it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, LiteralString

import dagster as dg
import pytest

from migration_assets.defs.partitions import register_quarters
from migration_assets_tests.confirmed_deeds import code_in
from migration_assets_tests.defs.conftest import Project, failure_text
from migration_assets_tests.ground import QUARTER, week
from migration_assets_tests.terminal.live_quarter import LiveQuarter

# Every deletion is asked for.
_NOTHING_FREE = {"delete_limit_rows": 0, "delete_limit_percent": 0.0}
_ENVIRONMENT = {f"MIGRATION_{name.upper()}": str(value) for name, value in _NOTHING_FREE.items()}
_SURPLUS = "SELECT count(*) FROM bookings WHERE id > 100000"
# Each command, and what makes it one that deletes.
COMMANDS: dict[str, tuple[LiteralString, ...]] = {
    "repair FY25-Q2 W05 --apply": (),
    "stream start FY25-Q2 --rebuild": (),
    "stream resume": ("UPDATE migration.streams SET status = 'joining'",),
    "stream recover --by Ada": ("UPDATE migration.servers SET system_identifier = '1' WHERE side = 'legacy'",),
}  # fmt: skip


def surplus(quarter: LiveQuarter) -> None:
    """Three rows of W05 that the base has alone."""
    quarter.ground.run(
        "base", "INSERT INTO bookings (id, booked_at) SELECT 100000 + n, '2024-05-01' FROM generate_series(1, 3) n"
    )


def gone(quarter: LiveQuarter) -> None:
    quarter.ground.drain()
    assert quarter.ground.contents("base", 5) == quarter.ground.contents("legacy", 5)


@pytest.mark.long
def test_every_command_asks_and_takes_the_answer(quarter: LiveQuarter) -> None:
    for command, before in COMMANDS.items():
        surplus(quarter)
        quarter.ground.run("base", *before)
        refused = quarter.run(command, **_ENVIRONMENT)
        assert refused.exit_code == 2, (command, refused.output)
        assert "--confirm-deletes 'FY25-Q2|W05=3'" in " ".join(refused.stderr.split()), command
        assert quarter.ground.one("base", _SURPLUS) == 3, command
        done = quarter.run(f"{command} --confirm-deletes FY25-Q2|W05=3", **_ENVIRONMENT)
        assert done.exit_code == 0, (command, done.output)
        gone(quarter)
    dry = quarter.run("repair FY25-Q2 W05")
    assert "--confirm-deletes" not in dry.output, "it is asked for where something would go"
    surplus(quarter)
    dry = quarter.run("repair FY25-Q2 W05", **_ENVIRONMENT)
    assert "3 rows would be deleted: --apply also asks for --confirm-deletes 'FY25-Q2|W05=3'." in dry.output
    assert quarter.run("repair FY25-Q2 W05 --apply").exit_code == 0, "few rows go without"
    gone(quarter)


@contextmanager
def nothing_begins(quarter: LiveQuarter) -> Generator[None]:
    """Whatever notes that it begins fails."""
    quarter.ground.run(
        "base",
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$",
        "CREATE TRIGGER no BEFORE INSERT ON migration.attempts EXECUTE FUNCTION public.no()",
    )
    yield
    quarter.ground.run("base", "DROP FUNCTION public.no() CASCADE")


@pytest.fixture
def project(quarter: LiveQuarter) -> Generator[Project]:
    settings = quarter.migration.settings.model_copy(update=_NOTHING_FREE)
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        register_quarters(instance, [QUARTER])
        yield Project(replace(quarter.migration, settings=settings), instance)


@pytest.mark.long
def test_every_asset_asks_and_takes_the_answer(quarter: LiveQuarter, project: Project) -> None:
    w05 = week(5)
    mend = {"action": "REPAIR", "dry_run": False}
    runs: dict[str, Callable[[dict[str, Any]], dg.ExecuteInProcessResult]] = {
        "repair": lambda more: project.run_job("repair_slices", w05, {"validated_slice": mend | more}),
        "copy": lambda more: project.run("migrated_slice", w05, more),
        "rebuild": lambda more: project.run("change_stream", QUARTER, {"rebuild": True} | more),
    }
    for name, run in runs.items():
        surplus(quarter)
        refused = run({})
        assert not refused.success, name
        assert f'confirm_deletes: {{"{w05.key}": 3}}' in failure_text(refused), name
        code = code_in(failure_text(refused))
        assert quarter.ground.one("base", _SURPLUS) == 3, name
        by_link = run({"confirm_deletes": {w05.key: 1_000_000}, "confirm": "ABCD-EFGH-JKMN"})
        assert "nobody was given this confirmation code" in failure_text(by_link), name
        more = run({"confirm_deletes": {w05.key: 4}, "confirm": code})
        assert f"this confirmation code was given for: delete {w05.key}=3" in failure_text(more), name
        assert quarter.ground.one("base", _SURPLUS) == 3, name
        counts = {"confirm_deletes": {w05.key: 3}, "confirm": code}
        with nothing_begins(quarter):
            assert "RaiseException" in failure_text(run(counts)), name
        assert run(counts).success, f"{name}: nothing had come of the code"
        gone(quarter)
        surplus(quarter)
        assert "this confirmation code was used at" in failure_text(run(counts)), f"{name}: an old run, executed again"
        assert quarter.ground.one("base", _SURPLUS) == 3, name
        quarter.ground.run("base", "DELETE FROM bookings WHERE id > 100000")
