"""Opens a quarter of the base, and says how far ahead the base is ready and what the opener is to do now.

While rows are to come from the legacy a quarter opens behind the gate of preflight; afterwards by itself.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from migration_assets.domain.findings import blocking
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.runway import Need, Places, Runway, find_needs, judge_runway, left_behind, measure_runway
from migration_assets.domain.samples import Severity
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.charge import is_base_in_charge
from migration_assets.ledger.preflights import latest_preflight, require_preflight
from migration_assets.ledger.schema import has_ledger
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.steps import run_step
from migration_assets.ledger.stream import StreamStatus, read_stream
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, Timeouts
from migration_assets.quarters.flaws import Flaw, find_flaws
from migration_assets.quarters.legacy_weeks import large_weeks
from migration_assets.quarters.partitions import OpenedQuarter, ensure_quarter
from migration_assets.quarters.runway import note_lost_rows, read_places
from migration_assets.runtime import Migration

log = logging.getLogger(__name__)


def open_quarter(migration: Migration, quarter: FiscalQuarter) -> tuple[OpenedQuarter, TableDescription]:
    """Make the quarter's partition and leaves where they are missing; waits for locks in short tries.

    If a leaf of a week under CDC has to be made again, the ledger then says that the week is not equal.

    While the base is in charge its own table is the model: neither the legacy nor a preflight is needed.

    Returns:
        What was made, and the description of the table that served as the model.

    Raises:
        PreflightError: The legacy is in charge, and preflight is missing or blocks.
        PartitionError: Existing partitions do not fit the calendar.
        psycopg.errors.LockNotAvailable: Others held a lock for longer than `lock_patience_seconds`.
    """
    settings, spec = migration.settings, migration.spec
    timeouts = Timeouts(lock=settings.lock_timeout_ms)

    def once() -> tuple[OpenedQuarter, TableDescription]:
        with migration.databases.session("base", f"{quarter.key}:open", timeouts) as base:
            own = is_base_in_charge(base, spec.relation)
            description = require_table(base, spec.table, "base") if own else _of_legacy(migration, base, quarter)

            def make() -> tuple[OpenedQuarter, tuple[FiscalWeek, ...]]:
                with base.transaction():
                    opened = ensure_quarter(base, description, spec, migration.calendar, quarter)
                    return opened, note_lost_rows(base, spec, quarter, opened.created)

            opened, lost = retry_locked(make, patience_seconds=settings.lock_patience_seconds)
        if lost:
            log.warning(
                "%s: the leaf was missing and was made again, empty: %s",
                ", ".join(week.key for week in lost),
                "its rows are on the legacy (until that is decommissioned) and in backups"
                if own
                else "under CDC: materialize change_stream with rebuild set",
            )
        return opened, description

    return run_step(migration, f"opening of {quarter.key}", once)


def _of_legacy(migration: Migration, base: Connected, quarter: FiscalQuarter) -> TableDescription:
    require_preflight(base, migration.spec.relation)
    with migration.databases.session("legacy", f"{quarter.key}:open") as legacy:
        return require_table(legacy, migration.spec.table, "legacy")


# No quarter can join the stream in these states: activating ends by itself, held needs a person.
_NOT_NOW = {StreamStatus.HELD, StreamStatus.ACTIVATING}


@dataclass(frozen=True)
class RunwaySeen:
    """The runway, its severity, and what it was measured on.

    Attributes:
        runway: None where no quarter was ever opened.
        severity: None where the runway is long enough.
        places: Which weeks have a leaf, and which are under CDC.
        opened: The quarters that the ledger knows, oldest first.
        last_bound: Upper bound of the latest leaf; earlier weeks may be missing.
    """

    runway: Runway | None
    severity: Severity | None = None
    places: Places | None = None
    opened: tuple[FiscalQuarter, ...] = ()
    last_bound: datetime | None = None


@dataclass(frozen=True)
class Opening:
    """One quarter to open and, if `join`, to put under CDC as well; `why` is one sentence for people."""

    quarter: FiscalQuarter
    join: bool
    why: str


@dataclass(frozen=True)
class Outlook:
    """What the opener is to do.

    Attributes:
        obstacle: Why no quarter can be opened now; `openings` is empty then.
        opened: The quarters that the ledger knows, oldest first.
        openings: What is to be done, oldest quarter first.
        waiting: What is needed and cannot be done now: one sentence each, with the reason.
        runway: The present runway; None where it was not measured.
    """

    obstacle: str | None = None
    opened: tuple[FiscalQuarter, ...] = ()
    openings: tuple[Opening, ...] = ()
    waiting: tuple[str, ...] = ()
    runway: Runway | None = None


def see_runway(migration: Migration) -> RunwaySeen:
    """Measure the base's runway.

    Raises:
        psycopg.OperationalError: The base cannot be reached.
    """
    with migration.databases.session("base", "runway") as base:
        opened = _opened(base, migration.spec.relation)
        if not opened:
            return RunwaySeen(None)
        places = read_places(base, migration.spec)
    runway = measure_runway(migration.calendar, migration.now(), places)
    last = max(places.attached, default=None)
    bound = migration.calendar.bounds(last).upper if last else None
    return RunwaySeen(runway, judge_runway(runway, migration.runway_policy), places, opened, bound)


def see_flaws(migration: Migration) -> Sequence[Flaw] | None:
    """Find the flaws of the base's partitions; None where no quarter was ever opened.

    Raises:
        psycopg.OperationalError: The base cannot be reached.
    """
    with migration.databases.session("base", "partitions") as base:
        if not _opened(base, migration.spec.relation):
            return None
        return find_flaws(base, migration.spec, migration.calendar)


def look_ahead(migration: Migration, now: datetime | None = None) -> Outlook:
    """Find out which quarters must be opened or joined at this moment, and which of them can be.

    Raises:
        MigrationError: The legacy's table is gone, or the calendar ends.
        psycopg.OperationalError: A server cannot be reached.
    """
    moment, relation = now or migration.now(), migration.spec.relation
    with migration.databases.session("base", "opener") as base:
        opened = _opened(base, relation)
        if not opened:
            return Outlook("no quarter was ever opened: the migration has not begun")
        places = read_places(base, migration.spec)
        runway = measure_runway(migration.calendar, moment, places)
        # Past quarters only get leaves here. Copying what the legacy holds of them is for people to decide.
        behind, between = left_behind(migration.calendar, moment, opened)
        needs = [Need(quarter, migration.calendar.weeks_of(quarter), ()) for quarter in behind]
        needs += find_needs(migration.calendar, moment, migration.runway_policy, places)
        lies = "lies between open quarters and is not open itself: open it if it is wanted"
        told = tuple(f"{quarter.key} {lies}" for quarter in between)
        if not needs:
            return Outlook(opened=opened, waiting=told, runway=runway)
        own = is_base_in_charge(base, relation)
        obstacle = None if own else _gate(base, relation)
        if obstacle:
            return Outlook(obstacle, opened, waiting=told, runway=runway)
        stream = read_stream(base, relation)
        records = {record.week: record for record in read_slices(base, relation)}
    held = stream is not None and stream.status in _NOT_NOW
    openings: list[Opening] = []
    waiting = list(told)
    for need in needs:
        had = records if own else (places.under_cdc or ())
        lost = [week.name for week in need.without_leaf if week in had]
        if lost:
            # An empty leaf would let the stream go on and hide that the week's rows are gone.
            waiting.append(
                f"{need.quarter.key} is not opened automatically: {', '.join(lost)}"
                + (
                    " was open and lost its leaf; see the check no_gap_no_overlap"
                    if own
                    else " is under CDC and lost its leaf; see the alert `leaf missing`"
                )
            )
            continue
        why = _why_not_joined(migration, need, [records[w] for w in need.not_under_cdc if w in records])
        if stream is not None and held and need.not_under_cdc:
            why = f"the change stream is {stream.status} ({stream.reason or 'no reason noted'})"
        join = bool(need.not_under_cdc) and why is None
        if need.not_under_cdc and why is not None:
            waiting.append(f"{need.quarter.key} does not join the stream now: {why}")
        if need.without_leaf or join:
            openings.append(Opening(need.quarter, join, _why(need)))
    return Outlook(None, opened, tuple(openings), tuple(waiting), runway)


def _opened(base: Connected, relation: str) -> tuple[FiscalQuarter, ...]:
    if not has_ledger(base):
        return ()
    return tuple(sorted({record.week.quarter for record in read_slices(base, relation)}))


def _gate(base: Connected, relation: str) -> str | None:
    """Why `require_preflight` would refuse a run; None where it would not."""
    latest = latest_preflight(base, relation)
    if latest is None:
        return "no preflight was taken: materialize preflight"
    stops = blocking(latest[1])
    return f"preflight blocks: {', '.join(finding.code for finding in stops)}" if stops else None


def _why_not_joined(migration: Migration, need: Need, records: Sequence[SliceRecord]) -> str | None:
    """Why a join would be refused, or None. Asked here, so that no run is launched every hour only to be refused.

    A quarter with rows that were never copied waits for people, who decide how and when it is copied.
    """
    busy = [record.week.name for record in records if record.working]
    if busy:
        return f"{', '.join(busy)} is being worked on"
    absent = [week for week in need.not_under_cdc if week not in {r.week for r in records if not _is_absent(r)}]
    if not absent:
        return None
    with migration.databases.session("legacy", "opener") as legacy:
        description = require_table(legacy, migration.spec.table, "legacy")
        most = migration.settings.join_rows
        large = large_weeks(legacy, description, migration.spec, migration.calendar, absent, most=most)
    if not large:
        return None
    listed = ", ".join(f"{week.name} about {rows:,}" for week, rows in large.items())
    return f"rows that were never copied ({listed}): materialize migrated_slice for them"


def _is_absent(record: SliceRecord) -> bool:
    return record.state is SliceState.ABSENT


def _why(need: Need) -> str:
    parts = [
        f"{len(weeks)} of 13 weeks {what}"
        for weeks, what in ((need.without_leaf, "have no leaf"), (need.not_under_cdc, "are not under CDC"))
        if weeks
    ]
    return f"{need.quarter.key}: {', '.join(parts)}"
