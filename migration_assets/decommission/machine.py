"""Runs the decommissioning from any state to its end: drain, take the last fingerprints, close, sever, done.

Every step may be repeated. Until `closed` is in the ledger a failure lets the reverse stream go on, and a rollback is
possible; from then on it only goes forward. The cutover's lock is held all the time. The reverse stream is drained and
stopped before the legacy's last fingerprints are taken, so that nothing comes after them.
"""

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from migration_assets.cutover.accounting import weeks_of
from migration_assets.cutover.left_weeks import why_not_archived
from migration_assets.cutover.reverse import (
    drop_reverse,
    drop_reverse_on_base,
    let_reverse_run,
    reverse_names,
    stop_reverse,
)
from migration_assets.cutover.reverse_cut import ReverseCut, end_reverse_cuts, reverse_cut
from migration_assets.cutover.work import forward_names, long_session
from migration_assets.decommission.closing import close, former_grants, other_sessions, still_open
from migration_assets.decommission.obstacles import DecommissionPlan, find_obstacles
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fingerprint import EMPTY, METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.states import CutoverError, DecommissionError, DecommissionState, Obstacle, Scope
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.cutovers import cutover_lock, durably
from migration_assets.ledger.decommissions import (
    DecommissionRecord,
    begin,
    call_off,
    current_cutover,
    note_closed,
    note_done,
    note_error,
    note_final,
    note_severed,
    read_decommission,
    require_decommission,
)
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.stream import StreamLock, StreamNames, read_stream
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import SEEDS, hashed_columns, row_hash
from migration_assets.postgres.server_messages import named, told
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.retirement.checks import difference
from migration_assets.stream.claims import claimed
from migration_assets.stream.servers import require_same_servers


def stop_stale(legacy: Connected, plan: DecommissionPlan, names: StreamNames) -> None:
    """Stop a reverse stream that is not healthy, which a person accepted; nothing arrives on the legacy any more."""
    stop_reverse(legacy, names, patience=_countdown(max(10.0, plan.cutover.patience_seconds)))


def stopped_stream(legacy: Connected, names: StreamNames) -> str | None:
    """Identifies the stopped subscription: the value changes if it is enabled again. None where it is not stopped."""
    row = legacy.execute(
        "SELECT oid::text || '/' || xmin::text FROM pg_subscription WHERE subname = %s AND NOT subenabled"
        " AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [names.subscription],
    ).fetchone()
    return None if row is None else str(row[0])


@contextmanager
def stopped_at_cut(plan: DecommissionPlan, names: StreamNames) -> Generator[ReverseCut]:
    """Bring the reverse stream to rest at a cut, for good: what the legacy has then is its last state.

    Raises:
        CutoverError: The stream does not bring a marker to the legacy, or no moment for a cut came.
    """
    cutover = plan.cutover
    if plan.accept_stale:
        # A stream that may lag gets no more time than the marker of a healthy one needs.
        limits = replace(cutover.stream.limits, stream_patience_seconds=cutover.lag_seconds)
        cutover = replace(cutover, stream=replace(cutover.stream, limits=limits))
    with reverse_cut(cutover, names, "decommission", at_rest=True, for_good=True) as cut:
        yield cut


def take_final(
    base: Connected, legacy: Connected, plan: DecommissionPlan, *, cut: ReverseCut | None, stopped: str | None
) -> dict[str, Any]:
    """Take the fingerprints of all rows of the legacy, by fiscal week and in total, in one scan.

    Where there is a cut, every row has to be accounted for: it is in the base's snapshot at the cut, or in an archive
    that is equal.

    Args:
        base: Has the ledger.
        legacy: The session that reads the legacy.
        plan: Which table.
        cut: Where the stream rests; None where it is not healthy, and nothing can be accounted for.
        stopped: Identifies the stopped subscription, see `stopped_stream`.

    Returns:
        What the ledger keeps; numbers as text.

    Raises:
        DecommissionError: Rows are not accounted for; the error names the weeks and what to do.
    """
    description = require_table(legacy, plan.spec.table, "legacy")
    weeks = [record.week for record in read_slices(base, plan.relation)]
    calendar = plan.cutover.stream.calendar
    found, outside = fingerprint_weeks(legacy, plan.spec, calendar, description, weeks)
    if cut is not None:
        of_base = fingerprint_weeks(cut.base, plan.spec, calendar, description, weeks)
        _require_accounted(base, plan, (found, outside), of_base)
    total = sum(found.values(), outside)
    at, lsn = require_row(
        legacy.execute("SELECT clock_timestamp()::text, pg_current_wal_lsn()::text").fetchone(), "a position"
    )
    return {
        "method": METHOD,
        "taken_at": at,
        "lsn": lsn,
        "marker": None if cut is None else str(cut.marker),
        "stream": stopped,
        "accounted": cut is not None,
        "total": _text(total),
        "outside": _text(outside),
        "weeks": {week.key: _text(one) for week, one in found.items() if one.rows},
    }


_Fingerprints: TypeAlias = tuple[Mapping[FiscalWeek, Fingerprint], Fingerprint]


def _require_accounted(
    base: Connected, plan: DecommissionPlan, of_legacy: _Fingerprints, of_base: _Fingerprints
) -> None:
    wrong: list[str] = []
    steps: list[str] = []
    weeks = weeks_of(base, plan.cutover)
    left = {one.record.week: one for one in weeks.left}
    for week, legacy in of_legacy[0].items():
        key = f"{week.quarter.key} {week.name}"
        if week in left:
            why = why_not_archived(left[week], legacy)
            if why is not None:
                wrong.append(why)
                steps.append(f"`migration-assets restore {key}`, then `migration-assets repair-legacy {key}`")
        elif legacy != of_base[0][week]:
            wrong.append(f"{week.key}: the legacy has {difference(legacy, of_base[0][week])} the base")
            steps.append(f"`migration-assets repair-legacy {key}` shows the rows, and with --apply repairs them")
    for side, one in (("legacy", of_legacy[1]), ("base", of_base[1])):
        if one.rows:
            wrong.append(f"{one.rows:,} row{'' if one.rows == 1 else 's'} of the {side} at times that no week has")
            steps.append("`migration-assets repair-legacy --outside` shows those of the legacy")
    if wrong:
        raise DecommissionError(
            "the legacy does not have what the base and the archives hold: " + "; ".join(wrong),
            where=plan.relation,
            state_left="nothing was closed; the reverse stream goes on",
            next_step="; ".join(dict.fromkeys(steps)) + "; then run this again",
        )


def fingerprint_weeks(
    legacy: Connected,
    spec: TableSpec,
    calendar: FiscalCalendar,
    description: TableDescription,
    weeks: Sequence[FiscalWeek],
) -> tuple[dict[FiscalWeek, Fingerprint], Fingerprint]:
    """Each week's fingerprint, and that of the rows in no week; one statement, so one snapshot and one scan."""
    kind = description.control_kind(spec.control_column)
    lowers: dict[Any, FiscalWeek] = {calendar.bound_values(week, kind)[0]: week for week in weeks}
    bounds: list[Any] = sorted({bound for week in weeks for bound in calendar.bound_values(week, kind)})
    control = description.column(spec.control_column)
    base_type = raw_sql(control.base_type)
    # Without any week every row is outside.
    bucket = sql.SQL("width_bucket({}::{}, {}::{}[])").format(
        sql.Identifier(control.name), base_type, sql.Literal(bounds), base_type
    ) if bounds else sql.SQL("0")  # fmt: skip
    rows = legacy.execute(
        sql.SQL(
            "SELECT bucket, count(*), sum(hashtextextended(h, {a})), sum(hashtextextended(h, {b}))"
            " FROM (SELECT {bucket} AS bucket, {hash} AS h FROM {table} OFFSET 0) AS rows GROUP BY bucket"
        ).format(
            a=SEEDS[0],
            b=SEEDS[1],
            bucket=bucket,
            hash=row_hash(hashed_columns(description)),
            table=table_name(spec.table),
        )
    ).fetchall()
    found: dict[FiscalWeek, Fingerprint] = dict.fromkeys(sorted(weeks), EMPTY)
    outside = EMPTY
    for number, *sums in rows:
        week = lowers.get(bounds[number - 1]) if number else None
        if week is None:
            outside += Fingerprint.from_row(*sums)
        else:
            found[week] += Fingerprint.from_row(*sums)
    return found, outside


def _text(one: Fingerprint) -> dict[str, str]:
    return {"rows": str(one.rows), "sum_a": str(one.sum_a), "sum_b": str(one.sum_b)}


def _countdown(seconds: float) -> Callable[[], float]:
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


log = logging.getLogger(__name__)
Told = Callable[[str], None]


def decommission(
    plan: DecommissionPlan,
    *,
    approved_by: str,
    note: str = "",
    scope: Scope,
    run_id: str | None = None,
    on_step: Told | None = None,
) -> DecommissionRecord:
    """Make the legacy inactive, or continue where a dead run stopped.

    Args:
        plan: Which table, and the conditions.
        approved_by: The person who approved it.
        note: Kept with the approval.
        scope: What to close: the table or the whole database.
        run_id: Noted in the ledger.
        on_step: Called with each step before it; by default the steps are logged.

    Returns:
        The ledger's record; of a decommissioning that is done already, as it is.

    Raises:
        DecommissionError: Something stands in the way, or it stopped; the error says what state is left.
        StreamError: A cutover or another decommissioning is at work.
    """
    tell = on_step or log.info
    with _base_to_ourselves(plan) as base:
        record = read_decommission(base, plan.relation)
        if record is not None and record.state is DecommissionState.DONE:
            return record
        if record is not None and record.state is DecommissionState.SEVERED:
            # Done before the legacy is asked, which may be gone by now: the slot would keep the base's WAL for ever.
            drop_reverse_on_base(base, reverse_names(forward_names(base, plan.relation)))
        with writing_legacy(plan) as legacy, _claimed(base, legacy, plan):
            if record is None or not record.state.final:
                _require_free(base, legacy, plan, scope, approved_by)
                _prepare(base, legacy, plan, record, approved_by, note, scope, run_id, tell)
            _finish(base, legacy, plan, tell)
        return require_decommission(base, plan.relation)


def call_off_decommission(plan: DecommissionPlan) -> bool:
    """Call off a decommissioning that died before it closed anything; the reverse stream goes on.

    Returns:
        Whether there was one.

    Raises:
        DecommissionError: It has closed the legacy already.
    """
    with _base_to_ourselves(plan) as base:
        record = read_decommission(base, plan.relation)
        if record is None:
            return False
        if record.state.final:
            raise DecommissionError(
                f"it is {record.state}: there is no way back",
                where=plan.relation,
                state_left="nothing was changed",
                next_step="run the decommissioning again: it continues to its end",
            )
        with writing_legacy(plan) as legacy, _claimed(base, legacy, plan):
            let_reverse_run(legacy, reverse_names(forward_names(base, plan.relation)))
        return call_off(base, plan.relation)


@contextmanager
def _base_to_ourselves(plan: DecommissionPlan) -> Generator[Connected]:
    session = plan.cutover.stream.databases.session("base", "decommission", long_session())
    with session as base, cutover_lock(base, plan.relation):
        yield base


@contextmanager
def _claimed(base: Connected, legacy: Connected, plan: DecommissionPlan) -> Generator[None]:
    """As in a cutover: the next run that gets the base's lock ends this session before it does anything.

    Raises:
        StreamError: A session of an earlier run is left, and our role may not end it.
    """
    stream = read_stream(base, plan.relation)
    key = stream.slot if stream is not None else plan.relation
    with claimed(legacy, key, holder=base, lock=StreamLock.CUTOVER):
        yield


@contextmanager
def writing_legacy(plan: DecommissionPlan) -> Generator[Connected]:
    """A session on the legacy that may write, also in a database that we have made read-only."""
    with plan.cutover.stream.databases.session("legacy", "decommission", long_session()) as legacy:
        legacy.execute("SET default_transaction_read_only = off")
        yield legacy


def _require_free(base: Connected, legacy: Connected, plan: DecommissionPlan, scope: Scope, approved_by: str) -> None:
    require_same_servers(base, plan.relation, legacy)
    found = find_obstacles(base, legacy, plan, scope)
    if not approved_by.strip():
        found.insert(0, nobody_approved())
    if found:
        raise refused(plan.relation, found)


def nobody_approved() -> Obstacle:
    """The obstacle that no person is named: a point of no return needs one."""
    return Obstacle("approved_by", "nobody approved it", "say who does: approved_by")


def refused(relation: str, found: list[Obstacle]) -> DecommissionError:
    """Put all obstacles into one error."""
    return DecommissionError(
        "something stands in the way: " + "; ".join(one.what for one in found),
        where=relation,
        state_left="nothing was changed; a rollback is possible as before",
        next_step="; ".join(dict.fromkeys(one.remedy for one in found)),
    )


def _prepare(
    base: Connected,
    legacy: Connected,
    plan: DecommissionPlan,
    before: DecommissionRecord | None,
    approved_by: str,
    note: str,
    scope: Scope,
    run_id: str | None,
    tell: Told,
) -> None:
    """Take the last fingerprints, while a rollback is still possible."""
    names = reverse_names(forward_names(base, plan.relation))
    stopped = stopped_stream(legacy, names)
    if (
        before is not None
        and before.state is DecommissionState.FINGERPRINTED
        and stopped is not None
        and (before.final.get("stream"), before.scope, before.approved_by) == (stopped, scope, approved_by)
    ):
        # Nothing has arrived on the legacy since a dead run took its fingerprints.
        if plan.on_begin is not None:
            with durably(base):
                plan.on_begin(base)
        return
    cutover = current_cutover(base, plan.relation)
    if cutover is None:
        raise DecommissionError("the legacy is in charge", where=plan.relation)
    with durably(base):
        begin(base, plan.relation, cutover.id, approved_by=approved_by, note=note, scope=scope, run_id=run_id)
        if plan.on_begin is not None:
            plan.on_begin(base)
    record = require_decommission(base, plan.relation)
    try:
        tell("drain and stop the reverse stream")
        end_reverse_cuts(legacy, names)  # a dead run may have left the worker waiting at a marker, or stopped
        let_reverse_run(legacy, names)
        with _stopped(legacy, plan, names) as cut:
            tell("take the legacy's last fingerprints, and account for every row of it")
            final = take_final(base, legacy, plan, cut=cut, stopped=stopped_stream(legacy, names))
            note_final(base, record.id, final)
    except (psycopg.Error, MigrationError) as error:
        raise DecommissionError(
            f"it stopped before anything was closed: {told(error)}",
            where=plan.relation,
            state_left=_given_up(base, plan),
            next_step=getattr(error, "next_step", "") or "see the error, then run this again",
        ) from error
    except BaseException:
        _given_up(base, plan)
        raise


@contextmanager
def _stopped(legacy: Connected, plan: DecommissionPlan, names: StreamNames) -> Generator[ReverseCut | None]:
    """Stop the reverse stream at a cut; yields None where it has to be stopped without one, which was accepted."""
    with ExitStack() as stack:
        try:
            cut = stack.enter_context(stopped_at_cut(plan, names))
        except CutoverError:
            if not plan.accept_stale:
                raise
            stop_stale(legacy, plan, names)
            cut = None
        yield cut


def _given_up(base: Connected, plan: DecommissionPlan) -> str:
    """Undo everything before the point of no return, so that a rollback finds its stream running; the state left."""
    try:
        with writing_legacy(plan) as legacy:  # a new session: the other one may be what was lost
            let_reverse_run(legacy, reverse_names(forward_names(base, plan.relation)))
        call_off(base, plan.relation)
    except (psycopg.Error, MigrationError) as second:
        log.warning("the reverse stream could not be enabled again: %s", told(second))
        return "nothing was closed; the reverse stream may be stopped: run this again, roll back, or --call-off"
    return "nothing was closed; the reverse stream goes on, and a rollback is possible as before"


def _finish(base: Connected, legacy: Connected, plan: DecommissionPlan, tell: Told) -> None:
    """Close, sever and finish; any part of it may be done already."""
    record = require_decommission(base, plan.relation)
    scope = record.scope
    try:
        if record.state is DecommissionState.FINGERPRINTED:
            note_closed(base, record.id, former_grants(legacy, plan.spec, scope))
        if record.state in {DecommissionState.FINGERPRINTED, DecommissionState.CLOSED}:
            tell(f"close the legacy's {scope}")
            for who in close(legacy, plan.spec, scope):
                log.warning("a session on the legacy could not be ended: %s", who)
            note_severed(base, record.id)
        tell("take the reverse stream away")
        drop_reverse(base, legacy, reverse_names(forward_names(base, plan.relation)))
        left = still_open(legacy, plan.spec, scope)
        stay = [who for _, who in other_sessions(legacy)] if scope == "database" else []
        note_done(base, plan.relation, record.id, left={"still_open": left, "sessions_left": stay})
    except (psycopg.Error, MigrationError) as error:
        now = _state_after(base, plan, error)
        if now is not None and not now.state.final:
            raise
        raise DecommissionError(
            f"it stopped at {now.state if now else 'an unknown state'}: {told(error)}",
            where=plan.relation,
            state_left="the point of no return is passed; what was closed stays closed",
            next_step="see the error, then run this again: it continues from there",
        ) from error


def _state_after(base: Connected, plan: DecommissionPlan, error: BaseException) -> DecommissionRecord | None:
    try:
        record = require_decommission(base, plan.relation)
        note_error(base, record.id, named(error))
    except (psycopg.Error, MigrationError):
        return None
    return record
