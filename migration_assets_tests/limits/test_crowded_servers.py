"""Connections, or places in the lock table, are used up when a step begins or in its middle, wherever that is."""

import re
import secrets
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from migration_assets.archive.archiving import archive_week
from migration_assets.copying.weeks import copy_week
from migration_assets.cutover.machine import cut_over
from migration_assets.cutover.plan import cutover_plan
from migration_assets.domain.errors import MigrationError
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.ledger.preflights import record_preflight
from migration_assets.postgres.server_messages import limit_error
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.runtime import Migration
from migration_assets.stream.holding import start_stream
from migration_assets_tests.archive.conftest import with_settings
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.defs.conftest import migration_of
from migration_assets_tests.ground import QUARTER, week
from migration_assets_tests.limits import crowds
from migration_assets_tests.server_pairs import quick_pair

_Result = TypeVar("_Result")
_CROWDS = {
    "connections": (crowds.connections, range(20)),
    "locks": (crowds.locks, [0, *(2**power for power in range(3, 10))]),
}


@pytest.fixture(scope="module")
def small_servers() -> Generator[EmbeddedServers]:
    with quick_pair(**crowds.SMALL) as pair:
        yield pair


@pytest.fixture
def ground(small_servers: EmbeddedServers) -> CutoverGround:
    name = f"crowded_{secrets.token_hex(4)}"
    for side in ("base", "legacy"):
        small_servers.recreate_database(side, name)
    ground = CutoverGround(Databases(small_servers.legacy_url(name), small_servers.base_url(name)))
    ground.fill(182).open()
    ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), 182)")
    return ground


def product(ground: CutoverGround, var: Path) -> Migration:
    return with_settings(
        migration_of(ground.databases.legacy_url, ground.databases.base_url),
        table="public.bookings", var=var, retry_attempts=1, lock_patience_seconds=1, cut_patience_seconds=2,
        stream_patience_seconds=5, cutover_patience_seconds=2, cutover_timeout_seconds=10,
    )  # fmt: skip


def crowded(
    ground: CutoverGround, kind: str, side: Side, step: Callable[[], _Result], after: Callable[[], object]
) -> tuple[_Result, list[Exception]]:
    """Run the step with ever more room, until it succeeds; `after` each refusal, when there is room again."""
    crowd, rooms = _CROWDS[kind]
    refusals: list[Exception] = []
    for free in rooms:
        try:
            with crowd(ground, side, free):
                return step(), refusals
        except (MigrationError, psycopg.Error) as error:
            # As commands and assets tell it.
            refusals.append(limit_error(error) or error if isinstance(error, psycopg.Error) else error)
        after()
    pytest.fail(f"it needs more than that: {refusals[-1]}")


@pytest.mark.long
@pytest.mark.parametrize("side", ["legacy", "base"])
@pytest.mark.parametrize("kind", ["connections", pytest.param("locks", marks=pytest.mark.soak)])
def test_a_step_that_finds_no_place_ends_readably_and_the_next_one_does_the_work(
    ground: CutoverGround, tmp_path: Path, kind: str, side: Side
) -> None:
    migration = product(ground, tmp_path)
    with ground.databases.session("base", "test") as base:
        record_preflight(base, ground.spec.relation, [], None)
    untouched = ground.base_state()

    tried: dict[str, int] = {}

    def as_before() -> None:
        assert (ground.base_state(), ground.staging()) == (untouched, [])

    def try_all(name: str, step: Callable[[], _Result], after: Callable[[], object] = lambda: None) -> _Result:
        result, refusals = crowded(ground, kind, side, step, after)
        tried.update({name: len(refusals)})
        for error in refusals:
            assert isinstance(error, MigrationError)
            assert re.search("free connections|lock table|release-writes", error.next_step), f"{name}: {error}"
            assert f"the {side}" in f"{error.where} {error.what} {error.state_left}", f"{name}: {error}"
        return result

    try_all("copy", lambda: copy_week(migration, week(1)), as_before)
    ground.seemingly_copied()
    try_all("start", lambda: start_stream(migration, QUARTER))
    ground.assert_same()
    try_all("live copy", lambda: copy_week(migration, week(1)), ground.assert_same)
    assert try_all("reconcile", lambda: reconcile_quarter(migration, QUARTER)).equal
    sign_off_quarter(migration, QUARTER, "Ada")
    try_all("archive", lambda: archive_week(migration, week(1)))

    def writable() -> None:
        assert (ground.watch(), ground.charge()) == (None, "legacy")
        ground.insert("legacy")

    record = try_all("cutover", lambda: cut_over(cutover_plan(migration), approved_by="Ada", rehearse=False), writable)
    assert record.outcome == "succeeded"
    ground.insert("base")
    # An archive asks nothing of the legacy.
    never = {name for name, refusals in tried.items() if not refusals}
    assert never <= ({"archive"} if side == "legacy" else set())
