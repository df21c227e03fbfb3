"""Every step of the product with the answer to one of its commits lost: what it did is done, and a re-run is exact.

All of them: `python -m migration_assets_tests.servers.losing`.
"""

import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
from pydantic import SecretStr

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.postgres.stream_plan import StreamPlan
from migration_assets.runtime import Migration
from migration_assets.steps.approval import sign_off_quarter
from migration_assets.steps.archiving import archive_week
from migration_assets_tests.cutover.ground import CutoverGround, ground_of
from migration_assets_tests.pairs import quick_pair
from migration_assets_tests.postgres.support import QUARTER, Ground, week
from migration_assets_tests.servers.drill import migration
from migration_assets_tests.servers.lost_answers import Proxy, losing_answers

WEEK = 5
_DAMAGE = (
    "UPDATE bookings SET guests = guests + 1 WHERE id IN (SELECT id FROM bookings WHERE booked_at >= '2024-04-29'"
    " AND booked_at < '2024-05-06' ORDER BY id LIMIT 2) RETURNING 1"
)


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
    opened: list[FiscalQuarter] = field(default_factory=lambda: [QUARTER])

    def open_another(self) -> None:
        """One more quarter, without rows, for what can be done only once in a quarter's life."""
        last = self.opened[-1]
        self.opened.append(FiscalQuarter(last.fiscal_year + last.number // 4, last.number % 4 + 1))
        self.direct.open(self.opened[-1])


@contextmanager
def staged(ground: CutoverGround, archive: Path) -> Generator[Stage]:
    """Both proxies, for as long as the body runs."""
    urls = ground.databases
    with losing_answers(urls.legacy_url) as legacy, losing_answers(urls.base_url) as base:
        databases = Databases(legacy.url(urls.legacy_url), base.url(urls.base_url))
        lossy = Lossy(databases)
        object.__setattr__(lossy, "direct", ground)
        product = migration(lossy)
        settings = product.settings.model_copy(
            update={
                "archive_url": SecretStr(str(archive)),
                "legacy_url_for_base": SecretStr(urls.legacy_url),
                "retention_quarters": 0,
                "quarantine_days": 0,
            }
        )
        yield Stage(ground, lossy, replace(product, settings=settings), {"legacy": legacy, "base": base})


def _signed(stage: Stage) -> None:
    if not stage.direct.reconcile().equal:
        raise AssertionError("the quarter differs")


def _archivable(stage: Stage) -> None:
    _signed(stage)
    sign_off_quarter(migration(stage.direct), QUARTER, "Ada")


Step = tuple[Callable[[Stage], object], Callable[[Stage], object]]
# What comes before, and the step; each may be repeated for as long as the ground lives.
STEPS: Mapping[str, Step] = {
    "first copy": (lambda s: s.open_another(), lambda s: s.lossy.copy(1, quarter=s.opened[-1])),
    "join": (lambda s: s.open_another(), lambda s: s.lossy.stream(s.opened[-1])),
    "validate": (lambda _: None, lambda s: s.lossy.validate(WEEK)),
    "repair": (lambda s: s.direct.ask("base", _DAMAGE), lambda s: s.lossy.repair(WEEK)),
    "copy live": (lambda s: s.direct.ask("base", _DAMAGE), lambda s: s.lossy.copy(WEEK)),
    "reconcile": (lambda _: None, lambda s: s.lossy.reconcile()),
    "rebuild": (lambda s: s.direct.ask("base", _DAMAGE), lambda s: s.lossy.stream(rebuild=True)),
    "sign-off": (_signed, lambda s: sign_off_quarter(s.product, QUARTER, "Ada")),
    "archive": (_archivable, lambda s: archive_week(s.product, week(WEEK))),
    "cutover": (lambda _: None, lambda s: s.lossy.cut()),
    "rollback": (lambda s: s.direct.charge() == "base" or s.direct.cut(), lambda s: s.lossy.back()),
}


def count(stage: Stage, name: str, side: Side) -> int:
    """How many commits an undisturbed run sends to the side; the first one of its kind makes things that stay."""
    before, step = STEPS[name]
    for _ in range(2 if name in {"cutover", "rollback"} else 1):
        settle(stage)
        before(stage)
        stage.proxies[side].arm(0)
        step(stage)
    return len(stage.proxies[side].commits)


def lose(stage: Stage, name: str, side: Side, number: int, after: bytes = b"") -> str:
    """The answer to that commit is lost; then the step is run again, and both sides are equal. What it was."""
    before, step = STEPS[name]
    settle(stage)
    before(stage)
    proxy = stage.proxies[side]
    proxy.arm(number, after)
    said = "it succeeded by itself"
    try:
        step(stage)
    except (MigrationError, psycopg.Error) as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    assert proxy.struck, f"only {len(proxy.commits)} commits"
    lost = proxy.lost
    proxy.arm(0)
    if name in {"cutover", "rollback"}:
        stage.direct.let_go()
    else:
        step(stage)
    settle(stage)
    stage.direct.assert_same()
    return f"{name}, {side}, {lost}: {said}"


def settle(stage: Stage) -> None:
    """The legacy in charge, and the stream running: as a person would who reads what was said."""
    if stage.direct.charge() == "base":
        stage.direct.back()


def main() -> None:
    """One line a case."""
    failed = 0
    with quick_pair() as pair, tempfile.TemporaryDirectory() as folder:
        for side in ("legacy", "base"):
            pair.recreate_database(side, "losing")
        ground = ground_of(pair.legacy_url("losing"), pair.base_url("losing"), 182)
        with staged(ground, Path(folder)) as stage:
            for name in sys.argv[1:] or STEPS:
                for side in stage.proxies:
                    for number in range(1, count(stage, name, side) + 1):
                        try:
                            print(lose(stage, name, side, number), flush=True)
                        except Exception:  # noqa: BLE001 - the others are to be tried all the same
                            failed += 1
                            print(f"FAILED {name}, {side}, {number}\n{traceback.format_exc()}", flush=True)
                            with suppress(MigrationError):
                                stage.direct.let_go()
    print(f"{failed} were not mended")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
