"""Whether a stream is well: every rule over a look, the looks before it and the thresholds, and what to do next. Pure.

A rule judges, or says that it cannot: an alert is never taken back because a look was not possible. `alerting` decides
who is told, and when.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from migration_assets.domain.cutover_rules import CUTOVER_RULES, CUTOVER_STEPS, while_it_flows
from migration_assets.domain.runway import judge_days
from migration_assets.domain.samples import DRIFTS, RECOVER, ProblemCode, Severity, StreamSample
from migration_assets.domain.schema_name import renamed
from migration_assets.domain.stream_view import (
    CLEAR_BELOW,
    UNKNOWN,
    Rule,
    Unknown,
    Verdict,
    View,
    growth,
    minutes_of_room,
    size_text,
)

__all__ = ["RULES", "UNKNOWN", "Rule", "Unknown", "Verdict", "View"]
# A warning becomes critical when only this part of the wanted time is left.
_CRITICAL_PART = 0.25
_LOOPING = 3
# Heartbeats advance every healthy reader, and the longest pause between two looks is much shorter than this.
_FOREIGN_SECONDS = 120.0
# The stream changes rows that our copies and repairs wrote last. PostgreSQL counts that as a conflict; it is none.
_HARMLESS_CONFLICTS = "origin_differs"
_STOPPING = {ProblemCode.COLUMNS_DIFFER, ProblemCode.RIGHTS_MISSING, ProblemCode.LEAF_MISSING}


def _unreachable(side: str) -> Rule:
    def rule(view: View) -> Verdict:
        error = view.sample.base_error if side == "base" else view.sample.legacy_error
        return (Severity.CRITICAL, f"the {side} cannot be asked: {error}") if error else None

    return rule


def _of_stream(rule: Rule, *statuses: str) -> Rule:
    """Apply a rule only while the stream has one of these statuses; unknown while the base cannot be asked."""

    def guarded(view: View) -> Verdict:
        if view.sample.base_error is not None:
            return UNKNOWN
        return rule(view) if view.sample.status in statuses else None

    return guarded


def _unless_worked_on(rule: Rule) -> Rule:
    """Report a problem as unknown while a step holds the stream: the step may cause it, and not have noted it yet."""

    def guarded(view: View) -> Verdict:
        verdict = rule(view)
        return UNKNOWN if verdict is not None and view.sample.worked_on_by else verdict

    return guarded


def _subscription_missing(view: View) -> Verdict:
    if view.sample.subscription_exists is None:
        return UNKNOWN
    return None if view.sample.subscription_exists else (Severity.CRITICAL, "the subscription is gone from the base")


def _subscription_disabled(view: View) -> Verdict:
    if not view.sample.subscription_exists:
        return UNKNOWN
    if view.sample.subscription_enabled:
        return None
    return Severity.CRITICAL, "the subscription is disabled, though the ledger says that the stream is live"


def _worker_down(view: View) -> Verdict:
    sample, previous = view.sample, view.previous
    if not sample.subscription_enabled or sample.worker_pids is None:
        return UNKNOWN
    # A worker that cannot reach the legacy keeps restarting; a short look may happen to see it running.
    unread = sample.slot_active is False and not sample.heartbeat_arrived
    if sample.worker_pids:
        return (Severity.WARNING, "an apply worker was seen, but nobody reads the slot") if unread else None
    again = previous is not None and previous.worker_pids == () and previous.subscription_enabled
    return Severity.CRITICAL if again else Severity.WARNING, "the subscription is enabled, and no apply worker runs"


def _worker_looping(view: View) -> Verdict:
    sample = view.sample
    if not sample.subscription_enabled or sample.worker_pids is None:
        return UNKNOWN
    if len(sample.worker_pids) > 1:
        return Severity.CRITICAL, f"{len(sample.worker_pids)} apply workers came and went during one look{_why(view)}"
    looks = [s for s in (*view.history, sample)[-_LOOPING:] if s.worker_pids]
    pids = [s.worker_pids[0] for s in looks if s.worker_pids]
    if len(set(pids)) < _LOOPING:
        return None
    # A pause ends the worker on purpose and changes the status, so only looks since the last change count.
    undisturbed = (sample.taken_at - looks[0].taken_at).total_seconds() <= (sample.status_seconds or 0.0)
    if not undisturbed:
        return None
    return Severity.WARNING, f"another apply worker at each of the last {_LOOPING} looks{_why(view)}"


def _apply_errors(view: View) -> Verdict:
    grown = growth(view, lambda s: s.apply_errors)
    if grown is None:
        return UNKNOWN
    if grown == 0:
        return None
    severity = Severity.CRITICAL if ProblemCode.APPLY_ERRORS in view.raised else Severity.WARNING
    return severity, f"{grown} apply errors since the last look, {view.sample.apply_errors} in all{_why(view)}"


def _why(view: View) -> str:
    """Everything known about the cause: the worker's message, counters, drifts, and what only the base refuses."""
    sample = view.sample
    causes = [f"the worker says: {sample.worker_message}"] if sample.worker_message else []
    counted = _grown_conflicts(view)
    if counted:
        causes.append(f"counted: {counted}")
    causes += [drift.what for drift in sample.drifts or () if drift.code in _STOPPING]
    causes += sample.stricter
    return "; ".join(["", *causes]) if causes else ""


def _conflicts(view: View) -> Verdict:
    listed = _grown_conflicts(view)
    if listed is None:
        return UNKNOWN
    return (Severity.CRITICAL, f"changes met rows that are not as the legacy left them: {listed}") if listed else None


def _grown_conflicts(view: View) -> str | None:
    now, previous = view.sample.conflicts, view.previous
    if now is None or previous is None or previous.conflicts is None:
        return None
    before = previous.conflicts
    grown = {
        name: count - before.get(name, 0) if count >= before.get(name, 0) else count
        for name, count in now.items()
        if _HARMLESS_CONFLICTS not in name
    }
    return ", ".join(f"{count} {name}" for name, count in grown.items() if count)


def _slot_missing(view: View) -> Verdict:
    if view.sample.slot_exists is None:
        return UNKNOWN
    return None if view.sample.slot_exists else (Severity.CRITICAL, "the replication slot is gone from the legacy")


def _wal_status(status: str, what: str) -> Rule:
    def rule(view: View) -> Verdict:
        if view.sample.slot_exists is None:
            return UNKNOWN
        return (Severity.CRITICAL, what) if view.sample.wal_status == status else None

    return rule


def _lag(view: View) -> Verdict:
    sample, limits = view.sample, view.thresholds
    if sample.lag_seconds is None:
        return UNKNOWN
    warning, critical = limits.lag_warning_seconds, limits.lag_critical_seconds
    severity = view.level(ProblemCode.LAG, sample.lag_seconds, warning, critical)
    if severity is None:
        return None
    behind = (
        f", {size_text(sample.unconfirmed_bytes)} not yet confirmed" if sample.unconfirmed_bytes is not None else ""
    )
    waits = f"; the apply worker waits for {sample.worker_waits_for}" if sample.worker_waits_for else ""
    return (
        severity,
        f"the base is {sample.lag_seconds:,.0f} s behind (warning {warning:g}, critical {critical:g}){behind}{waits}",
    )


def _heartbeat_failed(view: View) -> Verdict:
    if view.sample.heartbeat_error:
        return (
            Severity.WARNING,
            f"no heartbeat could be sent, so that the lag is unknown: {view.sample.heartbeat_error}",
        )
    return UNKNOWN if view.sample.legacy_error else None


def _retained_wal(view: View) -> Verdict:
    sample, limits = view.sample, view.thresholds
    if sample.retained_wal_bytes is None:
        return UNKNOWN
    warning, critical = limits.retained_wal_warning_gb, limits.retained_wal_critical_gb
    severity = view.level(ProblemCode.RETAINED_WAL, sample.retained_wal_bytes / 1e9, warning, critical)
    if severity is None:
        return None
    kept = size_text(sample.retained_wal_bytes)
    return severity, f"the legacy keeps {kept} of WAL for the slot (warning {warning:g}, critical {critical:g} GB)"


def _wal_room(view: View) -> Verdict:
    minutes = minutes_of_room(view.sample, view.history, view.thresholds.legacy_wal_disk_gb)
    if minutes is None:
        return UNKNOWN
    wanted = view.thresholds.wal_room_warning_minutes
    raised = view.raised.get(ProblemCode.WAL_ROOM)
    for severity, limit in ((Severity.CRITICAL, wanted * _CRITICAL_PART), (Severity.WARNING, wanted)):
        stays = raised is Severity.CRITICAL or raised is severity
        if minutes < limit / (CLEAR_BELOW if stays else 1.0):
            return severity, f"at its present growth the WAL kept for the slot is too much in {minutes:,.0f} minutes"
    return None


def _standing(view: View) -> Verdict:
    sample = view.sample
    if sample.status_seconds is None:
        return UNKNOWN
    if sample.server_changes:
        return None  # SERVER_CHANGED reports it; the stream is barred, and resuming would not help
    # A first activation trues up whole quarters, and there is no running stream yet that it could delay.
    at_work = sample.worked_on_by is not None
    if sample.status_seconds <= view.thresholds.pause_warning_seconds or (at_work and sample.status == "activating"):
        return None
    who = f"; {sample.worked_on_by} works on it" if at_work else "; nobody works on it"
    why = f" ({sample.reason})" if sample.reason else ""
    return Severity.WARNING, f"the stream has been {sample.status} for {sample.status_seconds:,.0f} s{why}{who}"


def _drift(code: ProblemCode) -> Rule:
    def rule(view: View) -> Verdict:
        if view.sample.drifts is None:
            return UNKNOWN
        found = [drift.what for drift in view.sample.drifts if drift.code is code]
        return (Severity.CRITICAL, "; ".join(found)) if found else None

    return rule


def _server_changed(view: View) -> Verdict:
    changes = view.sample.server_changes
    if changes is None:
        return UNKNOWN
    return (Severity.CRITICAL, "; ".join(changes)) if changes else None


def _stream_altered(view: View) -> Verdict:
    what = view.sample.proofs_outlived
    return (Severity.WARNING, what) if what else None


def _foreign_slot_stands(view: View) -> Verdict:
    """Slots of others that read our tables too and have not advanced for at least `_FOREIGN_SECONDS`."""
    now = view.sample.foreign_slots
    if now is None:
        return UNKNOWN
    standing: list[str] = []
    for name, at in now.items():
        since = view.sample.taken_at
        for earlier in reversed(view.history):
            if earlier.foreign_slots is None:
                continue
            if earlier.foreign_slots.get(name, "") != at:
                break
            since = earlier.taken_at
        seconds = (view.sample.taken_at - since).total_seconds()
        if seconds >= _FOREIGN_SECONDS:
            standing.append(f"slot {name} stands at {at} for {seconds:,.0f} s")
    if not standing:
        return None
    what = "; ".join(standing)
    return Severity.WARNING, f"{what}: its reader follows all tables of the legacy, and may stop at our markers"


def _runway(view: View) -> Verdict:
    days, wanted = view.sample.runway_days, view.thresholds.runway_days
    if days is None:
        return UNKNOWN
    severity = judge_days(days, wanted)
    if severity is None:
        return None
    return severity, f"the runway is {days:,.1f} days of {wanted:g}: then {view.sample.runway_ends}"


def _rows_outside(view: View) -> Verdict:
    found = view.sample.outside
    if view.sample.base_in_charge:
        return None  # new rows are written to the base, which refuses rows that no leaf can take
    if found is None:
        return UNKNOWN
    return (Severity.WARNING, f"a cutover would stop: {'; '.join(found)}") if found else None


_STANDING = ("activating", "joining", "paused", "held")
_LOST = "the slot is lost: the legacy removed WAL that the base had not read"
_AT_RISK = "the slot keeps more WAL than the legacy allows: the next checkpoint may lose it"
_OF_STREAM: Mapping[ProblemCode, Rule] = {
    ProblemCode.SUBSCRIPTION_MISSING: _of_stream(_unless_worked_on(_subscription_missing), "live", *_STANDING[1:]),
    ProblemCode.SUBSCRIPTION_DISABLED: _of_stream(_unless_worked_on(_subscription_disabled), "live"),
    ProblemCode.WORKER_DOWN: _of_stream(_unless_worked_on(_worker_down), "live"),
    ProblemCode.WORKER_LOOPING: _of_stream(_unless_worked_on(_worker_looping), "live"),
    ProblemCode.APPLY_ERRORS: _of_stream(_apply_errors, "live", *_STANDING),
    ProblemCode.CONFLICTS: _of_stream(_conflicts, "live", *_STANDING),
    ProblemCode.SLOT_MISSING: _of_stream(_unless_worked_on(_slot_missing), "live", *_STANDING[1:]),
    # These are seen on the legacy, and matter most while the base is unreachable.
    ProblemCode.SLOT_LOST: _wal_status("lost", _LOST),
    ProblemCode.SLOT_AT_RISK: _wal_status("unreserved", _AT_RISK),
    ProblemCode.RETAINED_WAL: _retained_wal,
    ProblemCode.WAL_ROOM: _wal_room,
    ProblemCode.LAG: _of_stream(_lag, "live"),
    ProblemCode.HEARTBEAT_FAILED: _of_stream(_heartbeat_failed, "live"),
    ProblemCode.FOREIGN_SLOT_STANDS: _foreign_slot_stands,
    ProblemCode.STREAM_ALTERED: _of_stream(_stream_altered, "live", "paused", "held"),
    ProblemCode.STREAM_STANDING: _of_stream(_standing, *_STANDING),
    **{code: _of_stream(_drift(code), "live", "paused", "held") for code in sorted(DRIFTS)},
}
RULES: Mapping[ProblemCode, Rule] = {
    ProblemCode.BASE_UNREACHABLE: _unreachable("base"),
    ProblemCode.LEGACY_UNREACHABLE: _unreachable("legacy"),
    ProblemCode.SERVER_CHANGED: _server_changed,
    **{code: while_it_flows(rule) for code, rule in _OF_STREAM.items()},
    ProblemCode.RUNWAY: _runway,
    ProblemCode.ROWS_OUTSIDE: _rows_outside,
    **CUTOVER_RULES,
}


_RESUME = "run `migration-assets stream resume`"
_REBUILD = "materialize change_stream with rebuild set: a new slot, and every week trued up against it"
_TO_FIT = "; what had changed in between is found by validated_slice and mended by repair_slices"


@dataclass(frozen=True)
class Problem:
    """One problem: what is wrong with figures, since when, and the next step."""

    code: ProblemCode
    severity: Severity
    what: str
    since: datetime
    next_step: str


@dataclass(frozen=True)
class Evaluation:
    """The problems found, and every code that could be judged; about the other codes nothing is known."""

    problems: tuple[Problem, ...]
    judged: frozenset[ProblemCode]


def evaluate(view: View) -> Evaluation:
    """Apply every rule to one view."""
    problems: list[Problem] = []
    judged: set[ProblemCode] = set()
    for code, rule in RULES.items():
        verdict = rule(view)
        if isinstance(verdict, Unknown):
            continue
        judged.add(code)
        if verdict is not None:
            severity, what, *own_step = verdict
            next_step = own_step[0] if own_step else renamed(NEXT_STEPS[code], view.own_schema)
            problems.append(Problem(code, severity, what, _since(code, view.sample), next_step))
    return Evaluation(tuple(problems), frozenset(judged))


def _since(code: ProblemCode, sample: StreamSample) -> datetime:
    """When the problem began if that is known, else the time of the sample."""
    seconds: float | None = 0.0
    if code is ProblemCode.STREAM_STANDING:
        seconds = sample.status_seconds
    if code is ProblemCode.WRITES_HELD and sample.cutover is not None and sample.cutover.held is not None:
        seconds = sample.cutover.held.seconds
    return sample.taken_at - timedelta(seconds=seconds or 0.0)


NEXT_STEPS: Mapping[ProblemCode, str] = {
    ProblemCode.BASE_UNREACHABLE: "bring the base back: until then the legacy keeps all WAL for the slot; while the"
    " base is in charge nobody can write. Where it answers, `migration-assets preflight` says what is wrong there",
    ProblemCode.LEGACY_UNREACHABLE: "bring the legacy back, or correct the role, password or connection limit named"
    " here; the stream goes on by itself",
    ProblemCode.SUBSCRIPTION_MISSING: _REBUILD,
    ProblemCode.SUBSCRIPTION_DISABLED: _RESUME,
    ProblemCode.SUBSCRIPTION_ALTERED: "set it back with ALTER SUBSCRIPTION, or " + _REBUILD,
    ProblemCode.STREAM_ALTERED: "ask who did that and why: changes may have been skipped. Materialize validated_slice"
    " for every week under CDC, and repair_slices where one differs. To stop the stream for a while use"
    " `migration-assets stream pause` and `stream resume`",
    ProblemCode.WORKER_DOWN: "read the base's server log for the worker's error; see that the base's server reaches the"
    " legacy with the subscription's role, and that worker slots are free",
    ProblemCode.WORKER_LOOPING: "read the base's server log: the worker ends with the same error again and again",
    ProblemCode.APPLY_ERRORS: "read the base's server log for the error and mend its cause; never use SKIP, which drops"
    " the whole transaction",
    ProblemCode.CONFLICTS: "find who writes to the base besides the stream; materialize validated_slice for every week"
    " under CDC, and repair_slices where one differs",
    ProblemCode.SLOT_MISSING: _REBUILD,
    ProblemCode.SLOT_LOST: _REBUILD + "; raise max_slot_wal_keep_size first",
    ProblemCode.SLOT_AT_RISK: "raise max_slot_wal_keep_size on the legacy now (a reload is enough), then let the base"
    " catch up",
    ProblemCode.RETAINED_WAL: "see why the base lags; mind the legacy's disk, and raise MIGRATION_THROTTLE_* or pause"
    " bulk copies",
    ProblemCode.WAL_ROOM: "let the base catch up (pause bulk copies), or raise max_slot_wal_keep_size while the disk"
    " allows it",
    ProblemCode.LAG: "look for locks on the base's leaves, for long transactions on the legacy, and for bulk copies,"
    " which MIGRATION_THROTTLE_LAG_SECONDS slows down",
    ProblemCode.HEARTBEAT_FAILED: "grant our role USAGE on schema migration and its sequence, and SELECT, INSERT and"
    " DELETE on migration.markers, on the legacy",
    ProblemCode.STREAM_STANDING: _RESUME + ", unless the step that holds it is still at work",
    ProblemCode.PUBLICATION_MISSING: _REBUILD,
    ProblemCode.PUBLICATION_ALTERED: _REBUILD + ": changes made meanwhile may not have been sent",
    ProblemCode.IDENTITY_ALTERED: "ALTER TABLE … REPLICA IDENTITY FULL on the legacy at once: its updates and deletes"
    " fail or arrive broken" + _TO_FIT,
    ProblemCode.GUARD_MISSING: "run `migration-assets stream resume`, which makes the guard again, and validate: a"
    " TRUNCATE would not have reached the base",
    ProblemCode.MARKER_KEY_MISSING: "ALTER TABLE migration.markers ADD PRIMARY KEY (relation, id), on the base: without"
    " it the apply worker waits at no marker, and there is no cut",
    ProblemCode.COLUMNS_DIFFER: "run the statements named here, or make the same change on the base's table; then the"
    " stream goes on" + _TO_FIT,
    ProblemCode.RIGHTS_MISSING: "grant the rights named here again; the stream then goes on by itself",
    ProblemCode.LEAF_MISSING: "run the statements named here if nothing was written to what was detached, and the"
    " stream goes on by itself; for what is gone materialize quarter_partitions for its quarter, then change_stream"
    " with rebuild set, which brings every row back",
    ProblemCode.UPDATES_REFUSED: "run the statements named here at once, on that side: until then its changes fail",
    ProblemCode.FOREIGN_SLOT_STANDS: "see that its subscriber has the tables that `migration-assets preflight` names"
    " at foreign_publication, and read its server log: until then the legacy keeps WAL for it without end",
    ProblemCode.ROWS_OUTSIDE: "open their quarters and bring them under CDC (materialize quarter_partitions,"
    " migrated_slice, change_stream), or correct the rows; a week that left the base comes back (`migration-assets"
    " restore`), joins (materialize change_stream), and is archived again",
    ProblemCode.RUNWAY: "see that the sensor quarter_opener runs and what its last tick says; or materialize"
    " quarter_partitions and change_stream for the quarter named here",
    ProblemCode.SERVER_CHANGED: RECOVER,
    **CUTOVER_STEPS,
}
