"""One look at the change stream on both sides; a side that is away is part of the answer, not an error."""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.rows import dict_row

from migration_assets.cutover.accounting import find_early
from migration_assets.cutover.observing import SidesAsked, observe_cutover
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.errors import ForeignObjectError, ServerChangedError
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.runway import measure_runway, reaches_present
from migration_assets.domain.samples import StreamSample
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.charge import CutoverFacts, read_cutover_facts
from migration_assets.ledger.schema import has_ledger
from migration_assets.ledger.session_locks import holder_or_null
from migration_assets.ledger.stream import (
    StreamLock,
    StreamRecord,
    StreamStatus,
    read_stream,
)
from migration_assets.ledger.stream_parts import proofs_outlived
from migration_assets.postgres.activity import APPLICATION
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import LOOK, Connected, Databases, Side, require_row
from migration_assets.quarters.runway import missing_leaves, read_places
from migration_assets.stream.foreign_publications import slots_at_risk
from migration_assets.stream.heartbeats import (
    MarkersWatch,
    age_of_oldest_under_way,
    has_arrived,
    newest_arrived,
    prune_heartbeats,
    send_heartbeat,
)
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.servers import look_at_servers, open_change
from migration_assets.stream.slots import OUR_SLOTS, look_at_legacy
from migration_assets.stream.subscription import apply_worker, read_worker_message
from migration_assets.watch.drift import (
    examine_base,
    examine_legacy,
    find_drifts,
    stricter_in_base,
)

_POLL_SECONDS = 0.02
_SIDES: tuple[Side, Side] = ("base", "legacy")
_Read = TypeVar("_Read")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LookLimits:
    """How long a look waits for its heartbeat, and how long heartbeats are kept on the legacy, in seconds."""

    heartbeat_seconds: float = 5.0
    keep_heartbeats_seconds: float = 3600.0


@dataclass(frozen=True)
class Ahead:
    """The calendar and the instant from which the runway is measured."""

    calendar: FiscalCalendar
    now: datetime


def observe_stream(
    databases: Databases, spec: TableSpec, limits: LookLimits | None = None, ahead: Ahead | None = None
) -> StreamSample:
    """Look once, for at most some seconds. Without `ahead` the runway is not measured.

    Changes only heartbeats and the ledger's knowledge of the servers; if a server went back, the stream is barred.

    Errors of a server are not raised: a side that cannot be asked is in the sample with its error. If no stream was
    ever begun the legacy is only asked whether it refuses writes, and may be away.

    While the base is in charge the reverse stream is looked at instead, since nothing flows from the legacy.

    Raises:
        SettingsError: A connection URL cannot be read.
    """
    limits = limits or LookLimits()
    seen: dict[str, Any] = {"relation": spec.relation, "taken_at": datetime.now(UTC)}
    with ExitStack() as stack:
        base = _open(stack, databases, "base", seen)
        record: StreamRecord | None = None
        facts: CutoverFacts | None = None
        if base is not None:
            with _asking("base", seen):
                record = _look_at_base(base, spec.relation, seen)
                facts = read_cutover_facts(base, spec.relation)
                if record is not None and ahead is not None:
                    seen.update(_look_ahead(base, spec, ahead, follows=facts.in_charge == "legacy"))
        if facts is not None and record is None and not facts.known:
            # The ledger knows of nothing that was begun; a legacy that refuses writes is reported nevertheless.
            quiet = SidesAsked(base, _open(stack, databases, "legacy", {}))
            return StreamSample(**seen, cutover=observe_cutover(quiet, spec, facts, seconds=0.0))
        closed = facts is not None and facts.decommissioned is not None
        legacy = None if closed else _open(stack, databases, "legacy", seen)
        _look_at_servers(base, record, legacy, seen)
        if legacy is not None:
            if record is not None or facts is None:
                with _asking("legacy", seen):
                    seen.update(look_at_legacy(legacy, record.slot if record else None))
                    seen["foreign_slots"] = slots_at_risk(legacy)
                    if "base_error" in seen:
                        _mark_absence(legacy, spec, seen)
            flows = facts is None or (facts.in_charge == "legacy" and not facts.stream_barred)
            if base is not None and record is not None and flows and not _errors(seen):
                _examine(legacy, base, spec, record, seen)
                _look_outside(databases, legacy, base, spec, ahead, seen)
                _measure_lag(legacy, base, record, seen, limits)
        known = None if "base_error" in seen else facts
        sides = SidesAsked(base, legacy, {side: seen[f"{side}_error"] for side in _SIDES if f"{side}_error" in seen})
        seen["cutover"] = observe_cutover(sides, spec, known, seconds=limits.heartbeat_seconds)
        seen.update({f"{side}_error": error for side, error in sides.errors.items()})
        if base is not None and record is not None and "base_error" not in seen:
            with _asking("base", seen):
                _look_again(base, record, seen)
                seen["proofs_outlived"] = proofs_outlived(base, spec.relation)
                _look_once_more_at_servers(base, spec.relation, seen)
                if not seen.get("heartbeat_arrived") and seen["subscription_exists"]:
                    # Only if something is wrong: reading the log costs more than all the rest of a look.
                    seen["worker_message"] = read_worker_message(base, record.subscription)
    return StreamSample(**seen)


def _look_at_servers(
    base: Connected | None, record: StreamRecord | None, legacy: Connected | None, seen: dict[str, Any]
) -> None:
    """Check that both are the servers that the stream was built on; if the legacy is away, only the base is asked."""
    if base is None or record is None or "base_error" in seen:
        return
    if "legacy_error" in seen:
        legacy = None
    try:
        with _asking("base" if legacy is None else "legacy", seen):
            found = look_at_servers(base, record.relation, legacy)
            if found or legacy is not None:
                seen["server_changes"] = found
    except ServerChangedError as error:  # a standby answers
        seen["server_changes"] = (error.what,)


def _look_once_more_at_servers(base: Connected, relation: str, seen: dict[str, Any]) -> None:
    """Report what the reverse stream's marker showed, or what another look found meanwhile."""
    barred = open_change(base, relation)
    if barred is not None and not seen.get("server_changes"):
        seen["server_changes"] = (barred,)


def _errors(seen: dict[str, Any]) -> bool:
    return bool({"base_error", "legacy_error"} & seen.keys())


@contextmanager
def _asking(side: Side, seen: dict[str, Any]) -> Generator[None]:
    """Put errors of a side into the sample, so that they are reported."""
    try:
        yield
    except (psycopg.Error, ForeignObjectError) as error:
        seen[f"{side}_error"] = told(error)
        log.info("the %s could not be asked: %s", side, told(error))


def _open(stack: ExitStack, databases: Databases, side: Side, seen: dict[str, Any]) -> Connected | None:
    with _asking(side, seen):
        return stack.enter_context(databases.session(side, "watch", LOOK, or_standby=True))
    return None


# One statement, so that status and subscription are read at the same moment. The row of pg_stat_subscription_stats is
# read as JSON, which has whichever conflict counters the server's version knows.
_BASE = sql.SQL("""
SELECT s.status, s.reason, extract(epoch FROM clock_timestamp() - s.status_since)::float8 AS status_seconds,
       p.oid IS NOT NULL AS subscription_exists, p.subenabled AS subscription_enabled, to_jsonb(t) AS stats,
       (SELECT format('backend %%s (%%s)', a.pid, {application})
        FROM pg_stat_activity a WHERE a.pid = {holder}) AS worked_on_by,
       (SELECT string_agg(format('backend %%s (role %%s, %%s)', a.pid, coalesce(a.usename::text, '?'), {application}),
                          '; ')
        FROM pg_stat_subscription w CROSS JOIN unnest(pg_blocking_pids(w.pid)) AS b(pid)
        JOIN pg_stat_activity a ON a.pid = b.pid
        WHERE w.subid = p.oid AND w.relid IS NULL) AS worker_waits_for
FROM migration.streams s
LEFT JOIN pg_subscription p ON p.subname = s.subscription
      AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
LEFT JOIN pg_stat_subscription_stats t ON t.subid = p.oid
WHERE s.relation = %(relation)s
""")


def _look_at_base(base: Connected, relation: str, seen: dict[str, Any]) -> StreamRecord | None:
    if not has_ledger(base):
        return None
    record = read_stream(base, relation)
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            _BASE.format(application=APPLICATION, holder=holder_or_null(base)),
            {"lock": StreamLock.STREAM.named(relation), "relation": relation},
        ).fetchone()
    if record is None or row is None:
        return None
    stats: dict[str, Any] = row.pop("stats") or {}
    seen.update(row)
    seen["apply_errors"] = stats.get("apply_error_count")
    seen["conflicts"] = {
        name.removeprefix("confl_"): count for name, count in stats.items() if name.startswith("confl_")
    }
    return record


def _look_ahead(base: Connected, spec: TableSpec, ahead: Ahead, *, follows: bool) -> dict[str, Any]:
    places = read_places(base, spec)
    if not follows:  # while the base is in charge, a week needs a leaf but no stream
        places = replace(places, under_cdc=places.attached)
    if not reaches_present(ahead.calendar, ahead.now, places):
        return {}
    runway = measure_runway(ahead.calendar, ahead.now, places)
    return {"runway_days": runway.days, "runway_ends": f"{runway.ends_with.key} {runway.because}"}


# Several migrations may share this legacy: only slots of streams that include this table count.
_UNFETCHED = """
SELECT NOT pg_is_in_recovery() AND to_regclass('migration.marker_id') IS NOT NULL AND EXISTS (
    SELECT FROM pg_replication_slots s JOIN pg_publication p ON p.pubname = s.slot_name
    JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = to_regclass(%(table)s)
    WHERE s.slot_name LIKE %(ours)s AND s.slot_type = 'logical' AND s.database = current_database() AND NOT s.active)
"""


def _mark_absence(legacy: Connected, spec: TableSpec, seen: dict[str, Any]) -> None:
    """Leave a marker among the changes that wait in the slot while the base is away.

    A DBA who moves the slot onwards meanwhile, to free the legacy's WAL, moves it past a marker that never
    arrives, and so is found out. Afterwards nothing else would tell. A legacy that takes no marker (its disk is full)
    is there all the same.
    """
    try:
        found = legacy.execute(_UNFETCHED, {"table": str(spec.table), "ours": OUR_SLOTS}).fetchone()
        if require_row(found, "a slot")[0]:
            send_heartbeat(legacy, spec.relation)
    except psycopg.Error as error:
        if legacy.broken:
            raise
        seen["heartbeat_error"] = told(error)
        log.info("no marker could be left for the base, which is away: %s", told(error))


def _examine(legacy: Connected, base: Connected, spec: TableSpec, record: StreamRecord, seen: dict[str, Any]) -> None:
    """Compare the stream with how it was built; if a lock is in the way, this look leaves that part out."""
    of_legacy = _unless_locked("legacy", seen, lambda: examine_legacy(legacy, spec, record.publication))
    of_base = _unless_locked("base", seen, lambda: examine_base(base, spec, record.subscription))
    if of_legacy is not None and of_base is not None:
        leaves = _unless_locked("base", seen, lambda: missing_leaves(base, spec))
        seen["drifts"] = None if leaves is None else (*find_drifts(of_legacy, of_base, record, spec), *leaves)
        if of_legacy.description is not None and of_base.description is not None:
            seen["stricter"] = stricter_in_base(of_legacy.description, of_base.description)


def _look_outside(
    databases: Databases, legacy: Connected, base: Connected, spec: TableSpec, ahead: Ahead | None, seen: dict[str, Any]
) -> None:
    """Find rows of the legacy that no open week can take; unknown without a calendar, or if it takes too long."""
    if ahead is None or _errors(seen):
        return
    plan = CutoverPlan(StreamPlan(databases, spec, ahead.calendar))
    seen["outside"] = _unless_locked("legacy", seen, partial(find_early, base, legacy, plan))


def _unless_locked(side: Side, seen: dict[str, Any], read: Callable[[], _Read]) -> _Read | None:
    with _asking(side, seen):
        try:
            return read()
        except (errors.LockNotAvailable, errors.QueryCanceled) as error:
            log.info("the stream's structure could not be examined now: %s", told(error))
    return None


def _measure_lag(
    legacy: Connected, base: Connected, record: StreamRecord, seen: dict[str, Any], limits: LookLimits
) -> None:
    """Send a heartbeat and wait for it; only wait if none can arrive, or if an earlier one is not fetched."""
    if record.status is StreamStatus.ACTIVATING or _errors(seen) or seen.get("server_changes"):
        return
    runs = (
        seen["status"] == StreamStatus.LIVE
        and seen["subscription_enabled"]
        and seen["slot_exists"]
        and seen["wal_status"] != "lost"
    )
    relation, pids, marker, arrived, travelled = record.relation, dict[int, None](), None, False, 0.0
    markers: MarkersWatch | None = None
    with _asking_both(legacy, base, seen):
        started = time.monotonic()
        worker = apply_worker(base, record.subscription)
        under_way = age_of_oldest_under_way(legacy, relation, newest_arrived(base, relation))
        if under_way is None or (runs and worker is not None and worker.pid):
            markers = MarkersWatch.begin(base, legacy, base, relation, "legacy")
            marker = send_heartbeat(legacy, relation)
        while runs:
            worker = apply_worker(base, record.subscription)
            if worker is not None and worker.pid is not None:
                pids[worker.pid] = None
            travelled = time.monotonic() - started
            arrived = marker is not None and has_arrived(base, relation, marker)
            if arrived or travelled >= limits.heartbeat_seconds:
                break
            time.sleep(_POLL_SECONDS)
        if arrived:
            seen["lag_seconds"] = travelled
            found = markers.arrived() if markers is not None else []
            if found:
                seen["server_changes"] = tuple(found)
                return
            prune_heartbeats(legacy, base, relation, keep_seconds=limits.keep_heartbeats_seconds)
        else:
            seen["lag_seconds"] = age_of_oldest_under_way(legacy, relation, newest_arrived(base, relation))
        seen["heartbeat_arrived"] = arrived if marker is not None else None
        # A heartbeat that arrived was applied by a worker, even if each of our reads missed it in the view.
        seen["worker_pids"] = tuple(pids) if pids or not arrived else None


@contextmanager
def _asking_both(legacy: Connected, base: Connected, seen: dict[str, Any]) -> Generator[None]:
    """Tell a lost side from two sides that answer while one of them does not store or show markers."""
    try:
        yield
    except psycopg.Error as error:
        lost = "base_error" if base.broken else "legacy_error" if legacy.broken else "heartbeat_error"
        seen[lost] = told(error)
        log.info("the lag could not be measured: %s", told(error))


def _look_again(base: Connected, record: StreamRecord, seen: dict[str, Any]) -> None:
    """Read the counters again after the wait; what a step changed meanwhile must not look like a change by hand."""
    before = seen["worked_on_by"]
    now = _look_at_base(base, record.relation, seen)
    if now != record or seen["worked_on_by"] or before:
        seen["worked_on_by"] = seen["worked_on_by"] or before
        seen["drifts"] = None
        if len(seen.get("worker_pids") or ()) > 1:
            seen["worker_pids"] = None
    if now is None:
        seen["status"] = None
