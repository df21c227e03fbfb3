"""Every step of the product with the answer to one of its commits lost: what it did is done, and a re-run is exact.

All of them: `python -m migration_assets_tests.servers.lost_commits`.
"""

import itertools
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import LiteralString

import psycopg
from pydantic import SecretStr

from migration_assets.abandon.abandon import abandon_migration
from migration_assets.archive.archiving import archive_week
from migration_assets.cutover.legacy_repair import repair_legacy
from migration_assets.cutover.recovery import recover_stream
from migration_assets.domain.errors import MigrationError, StreamError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.ledger.stream import StreamStatus
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.retirement.retiring import bring_back, retire_week
from migration_assets.runtime import Migration
from migration_assets.stream.holding import pause_stream, resume_stream
from migration_assets.stream.plan import StreamPlan
from migration_assets_tests.confirmed_deeds import code_for_abandon, code_to_retire, let_leave
from migration_assets_tests.cutover.ground import CutoverGround, ground_of
from migration_assets_tests.decommission.deed import close_legacy
from migration_assets_tests.ground import QUARTER, Ground, week
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.servers.drill import migration
from migration_assets_tests.servers.lost_answers import Proxy, losing_answers

WEEK = 5
_DATABASE = "losing"
_DAMAGE = (
    "UPDATE bookings SET guests = guests + 1 WHERE id IN (SELECT id FROM bookings WHERE booked_at >= '2024-04-29'"
    " AND booked_at < '2024-05-06' ORDER BY id LIMIT 2) RETURNING 1"
)


class NothingLostError(AssertionError):
    """The step has fewer commits than that."""


class Lossy(CutoverGround):
    """Whose sessions go through the proxies; the base's own server reaches the legacy directly."""

    direct: Ground

    @property
    def plan(self) -> StreamPlan:
        return replace(super().plan, legacy_url_for_base=self.direct.databases.legacy_url)


@dataclass(frozen=True)
class Stage:
    """The same table twice: directly, and through a proxy before each server."""

    direct: CutoverGround
    lossy: Lossy
    product: Migration
    proxies: Mapping[Side, Proxy]
    undisturbed: Migration
    opened: list[FiscalQuarter] = field(default_factory=lambda: [QUARTER])
    repairs: list[int | None] = field(default_factory=list[int | None])

    def open_another(self, through: Ground | None = None) -> None:
        """One more quarter, without rows, for what can be done only once in a quarter's life."""
        last = self.opened[-1]
        self.opened.append(FiscalQuarter(last.fiscal_year + last.number // 4, last.number % 4 + 1))
        (through or self.direct).open(self.opened[-1])


@contextmanager
def staged(ground: CutoverGround, archive: Path) -> Generator[Stage]:
    """Both proxies, for as long as the body runs."""
    urls = ground.databases
    with losing_answers(urls.legacy_url) as legacy, losing_answers(urls.base_url) as base:
        databases = Databases(legacy.url(urls.legacy_url), base.url(urls.base_url))
        lossy = Lossy(databases)
        object.__setattr__(lossy, "direct", ground)
        changes = {
            "archive_url": SecretStr(str(archive)),
            "legacy_url_for_base": SecretStr(urls.legacy_url),
            "base_url_for_legacy": SecretStr(urls.base_url),
            "retention_quarters": 1,
            "quarantine_days": 0,
        }
        product, undisturbed = (
            replace(one, settings=one.settings.model_copy(update=changes))
            for one in (migration(lossy), migration(ground))
        )
        yield Stage(ground, lossy, product, {"legacy": legacy, "base": base}, undisturbed)


def _signed(stage: Stage) -> None:
    if not stage.direct.reconcile().equal:
        raise AssertionError("the quarter differs")


def _archivable(stage: Stage) -> None:
    _signed(stage)
    sign_off_quarter(stage.undisturbed, QUARTER, "Ada")


def _retirable(stage: Stage) -> None:
    _archivable(stage)
    archive_week(stage.undisturbed, week(WEEK))


def _gone(stage: Stage) -> None:
    """Dropped: only the archive has its rows."""
    _retirable(stage)
    for _ in range(2):
        let_leave(stage.undisturbed, week(WEEK))


def _base_in_charge(stage: Stage) -> None:
    if stage.direct.charge() != "base":
        stage.direct.cut()


def _legacy_differs(stage: Stage) -> None:
    _base_in_charge(stage)
    stage.direct.as_we("legacy", "UPDATE bookings SET guests = guests + 1 WHERE id IN (30, 31)")


def _another_server(stage: Stage) -> None:
    """As if the legacy had been promoted since."""
    stage.direct.run("base", "UPDATE migration.servers SET timeline = timeline + 1 WHERE side = 'legacy'")


def _repaired(stage: Stage) -> None:
    stage.direct.ask("base", _DAMAGE)
    stage.repairs.append(stage.direct.repair(WEEK).repair_id)


def _undone_then_repaired(stage: Stage) -> None:
    with suppress(MigrationError):  # it is undone already
        stage.direct.undo(stage.repairs[-1])
    stage.direct.repair(WEEK)


def _brought_back(stage: Stage) -> None:
    with suppress(MigrationError):  # it is back already
        bring_back(stage.product, week(WEEK))


def _closed(stage: Stage) -> None:
    assert close_legacy(stage.direct).state.final
    stage.direct.equal()


_HERE: LiteralString = "(SELECT oid FROM pg_database WHERE datname = current_database())"
_OURS: Mapping[Side, LiteralString] = {
    "legacy": "SELECT pubname::text FROM pg_publication UNION ALL SELECT slot_name FROM pg_replication_slots"
    " WHERE database = current_database()",
    "base": f"SELECT subname::text FROM pg_subscription WHERE subdbid = {_HERE}",
}


def _abandoned(stage: Stage) -> None:
    with suppress(StreamError):  # there is nothing left to abandon
        abandon_migration(stage.undisturbed, apply=True, confirm=code_for_abandon(stage.undisturbed))
    for side, ours in _OURS.items():
        assert stage.direct.ask(side, ours) == []
    assert stage.direct.one("legacy", "SELECT to_regnamespace('migration')") is None


@dataclass(frozen=True)
class Step:
    """What comes before, and the step; both may be repeated for as long as the ground lives.

    Attributes:
        before: Directly, without loss.
        step: Through the proxies.
        again: What a person does who read what was said; the step again, where it is not given.
        ends: Nothing comes after it on this ground.
    """

    before: Callable[[Stage], object]
    step: Callable[[Stage], object]
    again: Callable[[Stage], object] | None = None
    ends: bool = False


def _nothing(_: Stage) -> None:
    return


def _let_go(stage: Stage) -> None:
    stage.direct.let_go()


def _retire(stage: Stage) -> None:
    code = code_to_retire(stage.undisturbed, week(WEEK))
    retire_week(stage.product, week(WEEK), dry_run=False, confirm=code)


STEPS: Mapping[str, Step] = {
    "open": Step(_nothing, lambda s: s.open_another(s.lossy), lambda s: s.lossy.open(s.opened[-1])),
    "first copy": Step(lambda s: s.open_another(), lambda s: s.lossy.copy(1, quarter=s.opened[-1])),
    "join": Step(lambda s: s.open_another(), lambda s: s.lossy.stream(s.opened[-1])),
    "pause": Step(_nothing, lambda s: pause_stream(s.product, "a drill")),
    "resume": Step(lambda s: pause_stream(s.undisturbed, "a drill"), lambda s: resume_stream(s.product)),
    "validate": Step(_nothing, lambda s: s.lossy.validate(WEEK)),
    "repair": Step(lambda s: s.direct.ask("base", _DAMAGE), lambda s: s.lossy.repair(WEEK)),
    "undo": Step(_repaired, lambda s: s.lossy.undo(s.repairs[-1]), _undone_then_repaired),
    "copy live": Step(lambda s: s.direct.ask("base", _DAMAGE), lambda s: s.lossy.copy(WEEK)),
    "reconcile": Step(_nothing, lambda s: s.lossy.reconcile()),
    "rebuild": Step(lambda s: s.direct.ask("base", _DAMAGE), lambda s: s.lossy.stream(rebuild=True)),
    "recover": Step(_another_server, lambda s: recover_stream(s.product, "Ada")),
    "sign-off": Step(_signed, lambda s: sign_off_quarter(s.product, QUARTER, "Ada")),
    "archive": Step(_archivable, lambda s: archive_week(s.product, week(WEEK))),
    "retire": Step(_retirable, _retire),
    "bring back": Step(_gone, lambda s: bring_back(s.product, week(WEEK)), _brought_back),
    "rehearse": Step(_nothing, lambda s: s.lossy.cut(rehearse=True), _let_go),
    "cutover": Step(_nothing, lambda s: s.lossy.cut(), _let_go),
    "repair legacy": Step(_legacy_differs, lambda s: repair_legacy(s.product, [week(WEEK)], dry_run=False)),
    "recover reverse": Step(
        lambda s: (_base_in_charge(s), _another_server(s)), lambda s: recover_stream(s.product, "Ada")
    ),
    "rollback": Step(_base_in_charge, lambda s: s.lossy.back(), _let_go),
    "decommission": Step(_base_in_charge, lambda s: close_legacy(s.lossy), _closed, ends=True),
    "abandon": Step(
        _nothing,
        lambda s: abandon_migration(s.product, apply=True, confirm=code_for_abandon(s.undisturbed)),
        _abandoned,
        ends=True,
    ),
}
# The first one of its kind makes things that stay.
_TWICE = frozenset({"rehearse", "cutover", "rollback", "repair legacy", "recover reverse"})


def count(stage: Stage, name: str, side: Side) -> int:
    """How many commits an undisturbed run sends to the side."""
    for _ in range(2 if name in _TWICE else 1):
        settle(stage)
        STEPS[name].before(stage)
        stage.proxies[side].arm(0)
        STEPS[name].step(stage)
    return len(stage.proxies[side].commits)


def lose(stage: Stage, name: str, side: Side, number: int, after: bytes = b"") -> str:
    """The answer to that commit is lost; then a person goes on, and both sides are equal. What it was."""
    what = STEPS[name]
    settle(stage)
    what.before(stage)
    proxy = stage.proxies[side]
    proxy.arm(number, after)
    said = "it succeeded by itself"
    try:
        what.step(stage)
    except (MigrationError, psycopg.Error) as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    if not proxy.struck:
        raise NothingLostError(f"only {len(proxy.commits)} commits")
    lost = proxy.lost
    proxy.arm(0)
    (what.again or what.step)(stage)
    if not what.ends:
        settle(stage)
        stage.direct.assert_same()
    return f"{name}, {side}, {lost}: {said}"


def settle(stage: Stage) -> None:
    """The legacy in charge, the stream running, all weeks in the base: as a person would who reads what was said."""
    if stage.direct.charge() == "base":
        stage.direct.back()
    if stage.direct.stream_record().status is StreamStatus.HELD:
        resume_stream(stage.undisturbed)
    if not stage.direct.record(WEEK).under_cdc:
        with suppress(MigrationError):  # it is back, and has not joined yet
            bring_back(stage.undisturbed, week(WEEK))
        stage.direct.stream()


@contextmanager
def fresh_stage(pair: EmbeddedServers, archive: Path) -> Generator[Stage]:
    """A small table under CDC in databases of their own."""
    for side in ("base", "legacy"):
        pair.drop_database(side, _DATABASE)
    for side in ("legacy", "base"):
        pair.recreate_database(side, _DATABASE)
    with staged(ground_of(pair.legacy_url(_DATABASE), pair.base_url(_DATABASE), 182), archive) as stage:
        yield stage


def sweep(pair: EmbeddedServers, archive: Path, name: str) -> int:
    """Every commit of the step on both sides; one line a case. Returns how many were not mended."""
    failed = 0
    for side in ("legacy", "base"):
        with ExitStack() as stages:
            stage: Stage | None = None
            for number in itertools.count(1):
                if stage is None:
                    stage = stages.enter_context(fresh_stage(pair, archive))
                try:
                    print(lose(stage, name, side, number), flush=True)
                    if STEPS[name].ends:
                        stage = None
                except NothingLostError:
                    break
                except Exception:  # noqa: BLE001 - the others are to be tried all the same
                    failed += 1
                    print(f"FAILED {name}, {side}, {number}\n{traceback.format_exc()}", flush=True)
                    if not stage.proxies[side].struck:
                        break  # so would all the others
                    stage = None
    return failed


def main() -> None:
    """All steps, or those that are named."""
    with quick_pair() as pair, tempfile.TemporaryDirectory() as folder:
        failed = sum(sweep(pair, Path(folder), name) for name in sys.argv[1:] or STEPS)
    print(f"{failed} were not mended")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
