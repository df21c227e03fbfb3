"""The demo's second part: the change stream, exact validation under live traffic, a fault, its repair, the sign-off.

The lag is measured in the background all the while. At the very end both sides are read whole and compared row by row,
without a fingerprint.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from types import TracebackType
from typing import Any, Self

from psycopg import sql
from rich.console import Console

from migration_assets.defs.runs import RunOutcome
from migration_assets.demo.copying import materialize, run_job
from migration_assets.domain.errors import MigrationError, StreamError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.slices import read_slices
from migration_assets.postgres.catalogue import changes_by_leaf, require_table
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import table_name
from migration_assets.readiness.step import side_in_charge
from migration_assets.runtime import Migration
from migration_assets.stream.heartbeats import has_arrived, reverse_arrived, send_heartbeat, send_reverse_marker
from migration_assets.watch.watching import watch_stream

_DRAIN_SECONDS = 900.0  # also enough for a slow machine; the watch reports a stream that does not move
_EVERY_SECONDS = 0.5
_DAMAGED_WEEK = 5
_REPAIR: dict[str, Any] = {"validated_slice": {"action": "REPAIR", "dry_run": False}}
_APPROVAL = {"approved_by": "the demo", "note": "made-up data on embedded servers"}


@dataclass(frozen=True)
class FullComparison:
    """The rows that were compared, how many of them differ, and the first that differs."""

    rows: int
    differing: int
    first: str


def drain(migration: Migration) -> None:
    """Wait until everything written so far on the side in charge has arrived on the other side.

    A marker that is written now shows it: the stream delivers it after everything before it.

    Raises:
        StreamError: The marker did not arrive in time.
    """
    relation, side = migration.spec.relation, side_in_charge(migration)
    with migration.databases.session("legacy", "demo") as legacy, migration.databases.session("base", "demo") as base:
        marker = send_heartbeat(legacy, relation) if side == "legacy" else send_reverse_marker(base, relation)

        def arrived() -> bool:
            if side == "legacy":
                return has_arrived(base, relation, marker)
            return reverse_arrived(legacy, relation, marker)

        if not wait_until(arrived, seconds=_DRAIN_SECONDS):
            raise StreamError(f"the stream did not drain within {_DRAIN_SECONDS:g} s", where=relation)


def compare_everything(migration: Migration, period: FiscalQuarter | FiscalWeek) -> FullComparison:
    """Compare every row of the quarter or week as text, in the order of the base's primary key."""
    with migration.databases.session("legacy", "demo") as legacy, migration.databases.session("base", "demo") as base:
        statement = _everything(migration, legacy, period)
        rows = differing = 0
        first = ""
        for one, other in zip_longest(_lines(legacy, statement), _lines(base, statement)):
            rows += 1
            if one != other:
                differing += 1
                first = first or f"legacy {one!r}, base {other!r}"
    return FullComparison(rows, differing, first)


def _everything(migration: Migration, legacy: Connected, period: FiscalQuarter | FiscalWeek) -> sql.Composed:
    spec = migration.spec
    description = require_table(legacy, spec.table, "legacy")
    bounds = migration.calendar.bound_values(period, description.control_kind(spec.control_column))
    return sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in description.columns),
        table_name(spec.table),
        in_range(spec.control_column, bounds),
        sql.SQL(", ").join(sql.Identifier(name) for name in description.base_primary_key(spec.control_column)),
    )


def _lines(connection: Connected, statement: sql.Composed) -> Iterator[bytes]:
    """The rows; COPY sends one message for each."""
    with connection.cursor().copy(statement) as copy:
        for message in copy:
            yield bytes(message)


class StreamWatch:
    """A context manager that measures the lag in the background; `lags` are seconds, in the order of measurement."""

    def __init__(self, migration: Migration) -> None:
        self.lags: list[float] = []
        self.alerts: list[str] = []
        self._migration = migration
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stream watch", daemon=True)

    def __enter__(self) -> Self:
        # The demo reports alerts at the end; a log line would break a progress bar.
        logging.getLogger("migration_assets").setLevel(logging.ERROR)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(_EVERY_SECONDS):
                watched = watch_stream(self._migration)
                if watched.sample.lag_seconds is not None:
                    self.lags.append(watched.sample.lag_seconds)
                self.alerts += [f"{alert.code}: {alert.what}" for alert in watched.raised]
        except BaseException as error:  # noqa: BLE001 - raised again in __exit__
            self._error = error


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least the share (0 to 1) of all values does not exceed; 0.0 if there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def applied_changes(base: Connected, spec: TableSpec) -> int:
    """The row changes of all leaves so far; the difference of two calls is what came in between."""
    leaves = [record.leaf for record in read_slices(base, spec.relation)]
    return sum(changes_by_leaf(base, spec.table, leaves).values())


@dataclass
class CdcStory:
    """What the second part measured; everything else is in the ledger."""

    changes_before: int = 0
    changes_after: int = 0
    lags: list[float] = field(default_factory=list[float])
    alerts: list[str] = field(default_factory=list[str])
    validated: int = 0
    injected: int = 0
    found: str = ""
    repaired: bool = False
    reconciled: bool = False
    signed: bool = False
    equality: FullComparison | None = None
    failures: list[str] = field(default_factory=list[str])

    def note(self, what: str, outcome: RunOutcome) -> bool:
        """Keep the error of a failed run; whether the run succeeded."""
        if not outcome.success:
            self.failures.append(f"{what}: {outcome.error}")
        return outcome.success


def tell_cdc(
    console: Console, migration: Migration, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory
) -> None:
    """Tell the part from the last copy to the sign-off, under live traffic; every step is a Dagster run."""
    with console.status("Change stream: slot, publication, every week trued up against the slot's snapshot"):
        if not story.note("change_stream", pool.submit(materialize, "change_stream", quarter).result()):
            return
    with StreamWatch(migration) as watch:
        with migration.databases.session("base", "demo") as base:
            story.changes_before = applied_changes(base, migration.spec)
        console.print("Change stream: on. The base follows the legacy; every week is validated while writes go on.")
        validate_weeks(console, migration, quarter, pool, story)
        _break_and_mend(console, migration, quarter, pool, story)
        approve(console, quarter, pool, story)
    story.lags, story.alerts = watch.lags, watch.alerts


def approve(console: Console, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory) -> None:
    """Reconcile the quarter and sign it off."""
    with console.status(f"Reconciling the 13 weeks of {quarter.key} at one cut, then signing off"):
        outcome = pool.submit(materialize, "reconciled_quarter", quarter).result()
        story.reconciled = story.note("reconciled_quarter", outcome)
        outcome = pool.submit(materialize, "sign_off", quarter, _APPROVAL).result()
        story.signed = story.note("sign_off", outcome)


def validate_weeks(
    console: Console, migration: Migration, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory
) -> None:
    """Prove every week of the quarter equal at a cut of its own."""
    weeks = migration.calendar.weeks_of(quarter)
    equal = 0
    title = f"Validating {len(weeks)} weeks at consistent cuts"
    with console.status(title) as status:
        for week, future in [(week, pool.submit(run_job, "validate_slices", week)) for week in weeks]:
            equal += story.note(f"validated_slice {week.key}", future.result())
            status.update(f"{title}: {equal} are equal")
    story.validated = equal
    console.print(f"{quarter.key}: {equal} of {len(weeks)} weeks were proven equal at their cuts, under live traffic.")


def _break_and_mend(
    console: Console, migration: Migration, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory
) -> None:
    week = migration.calendar.weeks_of(quarter)[_DAMAGED_WEEK - 1]
    story.injected = damage(migration, week)
    console.print(f"Fault injected into {week.key} of the base: {story.injected} rows were changed or deleted by hand.")
    with console.status(f"Validating {week.key} again, then repairing it"):
        outcome = pool.submit(run_job, "validate_slices", week).result()
        if outcome.success:
            story.failures.append(f"{week.key}: the injected fault was not found")
            return
        story.found = outcome.error.splitlines()[0]
        outcome = pool.submit(run_job, "repair_slices", week, _REPAIR).result()
        story.repaired = story.note(f"repair of {week.key}", outcome)
    console.print(f"Found: {story.found}", highlight=False, markup=False)
    console.print(f"Repaired, and validated again: {'yes' if story.repaired else 'NO'}.")


def damage(migration: Migration, week: FiscalWeek) -> int:
    """Delete one row of the week and change two others, only in the base, as a person with psql might."""
    spec = migration.spec
    with migration.databases.session("base", "demo fault") as base:
        description = require_table(base, spec.table, "base")
        bounds = migration.calendar.bound_values(week, description.control_kind(spec.control_column))
        rows = base.execute(
            sql.SQL("SELECT id FROM {} WHERE {} ORDER BY id LIMIT 3").format(
                table_name(spec.table), in_range(spec.control_column, bounds)
            )
        ).fetchall()
        if not rows:
            raise MigrationError("the week has no rows to damage", where=week.key, next_step="run it with more rows")
        deleted, *changed = [row[0] for row in rows]
        base.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(table_name(spec.table)), [deleted])
        base.execute(
            sql.SQL("UPDATE {} SET guests = guests + 1 WHERE id = ANY(%s)").format(table_name(spec.table)), [changed]
        )
    return len(rows)
