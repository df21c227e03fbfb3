"""The steps that are struck: what runs, what has to be so before it, and what a person types afterwards.

Belongs here: one entry a step. How a stage is set stands in `stage`, how a blow is judged in `judge`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from migration_assets.copying.weeks import (
    copy_week,
    repair_week,
    undo_repair,
    validate_week,
)
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.ledger.stream import StreamStatus
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.runtime import Migration, open_migration
from migration_assets.stream.holding import pause_stream, resume_stream, start_stream
from migration_assets_tests.convergence.table import MIGRATED, settings_of

QUARTER = MIGRATED[0]
WEEK = FiscalWeek(QUARTER, 5)
LEFT = tuple(FiscalWeek(QUARTER, number) for number in (3, 4, 9))
"""The weeks that leave the stream and join it, again and again. One quarter is enough for that, and half the work."""


@dataclass(frozen=True)
class Step:
    """One step. `stage` names what must be so before it (see `stage.Stage`)."""

    run: Callable[[Migration], object]
    stage: str = "live"


def _start(quarter: FiscalQuarter, *, rebuild: bool = False) -> Callable[[Migration], object]:
    return lambda migration: start_stream(migration, quarter, rebuild=rebuild).how


def _undo(migration: Migration) -> object:
    with migration.databases.session("base", "test") as base:
        row = base.execute("SELECT max(id) FROM migration.repairs").fetchone()
    assert row is not None
    return undo_repair(migration, row[0]).differences


STEPS: dict[str, Step] = {
    "activate": Step(_start(QUARTER), "nothing"),
    "join": Step(_start(QUARTER), "left"),
    "rebuild": Step(_start(QUARTER, rebuild=True)),
    "finish": Step(resume_stream, "open join"),
    "validate": Step(lambda migration: validate_week(migration, WEEK).base),
    "reconcile": Step(lambda migration: reconcile_quarter(migration, QUARTER).base),
    "copy": Step(lambda migration: copy_week(migration, WEEK).base),
    "repair": Step(lambda migration: repair_week(migration, WEEK, dry_run=False).differences, "damaged"),
    "undo": Step(_undo, "repaired"),
    "hold": Step(lambda migration: pause_stream(migration, "a drill")),
    "resume": Step(resume_stream, "held"),
}


def crash_migration(legacy_url: str, base_url: str, **settings: Any) -> Migration:
    """The migration of this suite: one week at a time, so that a step sends its statements in the same order."""
    chosen = {"parallel_copies": 1, "cut_patience_seconds": 20.0, **settings}
    return open_migration(settings_of(legacy_url, base_url).model_copy(update=chosen))


def status_of(migration: Migration) -> StreamStatus | None:
    """What the ledger says of the stream."""
    with migration.databases.session("base", "test") as base:
        row = base.execute("SELECT status FROM migration.streams").fetchone()
    return None if row is None else StreamStatus(row[0])
