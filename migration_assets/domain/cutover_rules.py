"""The watch's rules around cutovers: held writes, two writable sides, an unhealthy reverse stream. Pure.

It also adapts the change stream's rules: while the base is in charge, nothing flows from the legacy, and that is no
problem.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from migration_assets.domain.samples import CutoverSample, ProblemCode, ReverseSample, Severity, StreamSample, UnderWay
from migration_assets.domain.stream_view import UNKNOWN, Rule, Unknown, Verdict, View, growth, size_text

_Bad: TypeAlias = tuple[Severity, str] | tuple[Severity, str, str]
_ReverseRule: TypeAlias = Callable[[View, ReverseSample], Verdict]
_NO_ROLLBACK = "a rollback would not find everything"
_FOLLOW_ANEW = (
    "run `migration-assets stream recover --by NAME`: a new slot, and the legacy is made as the base is, with images of"
    " what it had"
)


def while_it_flows(rule: Rule) -> Rule:
    """Wrap a rule of the change stream, so that what a cutover does to the stream on purpose is not a problem."""

    def guarded(view: View) -> Verdict:
        cutover = view.sample.cutover
        if cutover is None or cutover.in_charge is None:
            return rule(view)
        if cutover.base_in_charge:
            return None
        verdict = rule(view)
        if verdict is None or isinstance(verdict, Unknown):
            return verdict
        return UNKNOWN if cutover.changed else _meanwhile(cutover, verdict)

    return guarded


def _meanwhile(cutover: CutoverSample, verdict: _Bad) -> Verdict:
    """Judge a problem of the change stream while a cutover or rollback is not finished."""
    if cutover.under_way is None:
        return verdict
    if cutover.under_way.alive:
        return None if cutover.stream_barred else UNKNOWN
    # The stream may only go on after the unfinished cutover is released, so that is the next step.
    return (verdict[0], verdict[1], release_step(cutover.under_way)) if cutover.stream_barred else verdict


def release_step(left: UnderWay) -> str:
    """The next step for a cutover or rollback whose process died."""
    return f"run `migration-assets release-writes`: it finishes or undoes {left.name}, which was left at {left.state}"


def _seen(view: View) -> CutoverSample | None:
    """The sample of cutovers, or None if it is missing or changed during the look."""
    cutover = view.sample.cutover
    return None if cutover is None or cutover.changed else cutover


def _writes_held(view: View) -> Verdict:
    cutover = _seen(view)
    if cutover is None or cutover.accepts is None:
        return UNKNOWN
    held, under_way = cutover.held, cutover.under_way
    if held is None:
        return None
    if under_way is None or under_way.pid is None:
        return Severity.CRITICAL, held.what, held.next_step
    limit = view.thresholds.writes_held_seconds
    if held.seconds is None or held.seconds <= limit:
        return None
    what = f"{held.what}, for {held.seconds:,.0f} s, longer than its timeout allows: its process hangs"
    return Severity.CRITICAL, what, "run `migration-assets release-writes`, which ends its session first"


def _unfinished(view: View) -> Verdict:
    cutover = _seen(view)
    if cutover is None or cutover.in_charge is None:
        return UNKNOWN
    left = cutover.under_way
    # If it left writes held, the alert WRITES_HELD says all of this.
    if left is None or left.alive or cutover.held is not None:
        return None
    return Severity.WARNING, f"{left.name} was left at {left.state}: its process died", release_step(left)


def _with_the_base_in_charge(rule: Callable[[View, CutoverSample], Verdict]) -> Rule:
    """Apply a rule only while a rollback is possible; what a running rollback does on purpose is not a problem."""

    def guarded(view: View) -> Verdict:
        if view.sample.cutover is None:
            return UNKNOWN if view.sample.base_error else None
        cutover = _seen(view)
        if cutover is None or cutover.in_charge is None:
            return UNKNOWN
        if not cutover.base_in_charge or cutover.decommissioned:
            return None
        verdict = rule(view, cutover)
        if verdict is None or isinstance(verdict, Unknown) or cutover.under_way is None:
            return verdict
        if cutover.under_way.alive:
            return UNKNOWN
        return verdict[0], verdict[1], release_step(cutover.under_way)

    return guarded


def _of_reverse(rule: _ReverseRule) -> Rule:
    def asked(view: View, cutover: CutoverSample) -> Verdict:
        return UNKNOWN if cutover.reverse is None else rule(view, cutover.reverse)

    return _with_the_base_in_charge(asked)


def _legacy_writable(_view: View, cutover: CutoverSample) -> Verdict:
    if cutover.legacy_accepts is None or cutover.accepts is None:
        return UNKNOWN
    if not cutover.legacy_accepts or not cutover.accepts:
        return None
    what = "two sides accept writes: the base is in charge, and the legacy's hold does not stop all writes"
    return Severity.CRITICAL, what + (f" ({cutover.legacy_gaps})" if cutover.legacy_gaps else "")


def _base_unguarded(_view: View, cutover: CutoverSample) -> Verdict:
    if not cutover.unguarded:
        return None
    return Severity.WARNING, f"a TRUNCATE would not reach the legacy: nothing keeps it from {cutover.unguarded}"


def _base_leaf_lost(_view: View, cutover: CutoverSample) -> Verdict:
    return (Severity.CRITICAL, cutover.lost_leaves) if cutover.lost_leaves else None


def _reverse_down(view: View, reverse: ReverseSample) -> Verdict:
    if reverse.subscription_exists is None:
        return UNKNOWN
    if not reverse.subscription_exists:
        what = f"the reverse stream's subscription is gone from the legacy: {_NO_ROLLBACK}"
        return Severity.CRITICAL, what, _FOLLOW_ANEW
    if not reverse.subscription_enabled and view.sample.worked_on_by:
        return UNKNOWN  # a repair of the legacy may have paused it
    if not reverse.subscription_enabled:
        what = f"the reverse stream's subscription is disabled on the legacy: {_NO_ROLLBACK}"
        return Severity.CRITICAL, what, f"ALTER SUBSCRIPTION {reverse.name} ENABLE, on the legacy"
    return _reverse_late(view, reverse)


def _reverse_late(view: View, reverse: ReverseSample) -> Verdict:
    limits = view.thresholds
    if reverse.marker_error:
        return Severity.WARNING, f"no marker could be sent along the reverse stream: {reverse.marker_error}"
    if reverse.arrived is None and reverse.lag_seconds is None:
        return UNKNOWN
    if reverse.lag_seconds is not None:
        warning, critical = limits.lag_warning_seconds, limits.lag_critical_seconds
        severity = view.level(ProblemCode.REVERSE_DOWN, reverse.lag_seconds, warning, critical)
        if severity is not None:
            why = f"the legacy is {reverse.lag_seconds:,.0f} s behind (warning {warning:g}, critical {critical:g})"
            return severity, f"{why}: {_NO_ROLLBACK}"
    if reverse.arrived or reverse.worker_runs:
        return None
    before = _reverse_of(view.previous)
    again = before is not None and before.worker_runs is False and not before.arrived
    what = "the reverse stream's subscription is enabled, and no apply worker runs on the legacy"
    return Severity.CRITICAL if again else Severity.WARNING, what


def _reverse_slot(_view: View, reverse: ReverseSample) -> Verdict:
    if reverse.slot_exists is None:
        return UNKNOWN
    if not reverse.slot_exists:
        return Severity.CRITICAL, f"the reverse stream's slot is gone from the base: {_NO_ROLLBACK}"
    if reverse.wal_status == "lost":
        return Severity.CRITICAL, "the reverse stream's slot is lost: the base removed WAL that the legacy had not read"
    if reverse.wal_status == "unreserved":
        return (
            Severity.CRITICAL,
            "the reverse stream's slot keeps more WAL than the base allows: the next checkpoint may lose it",
            "raise max_slot_wal_keep_size on the base now (a reload is enough), then let the legacy catch up",
        )
    return None


def _reverse_retained(view: View, reverse: ReverseSample) -> Verdict:
    if reverse.retained_wal_bytes is None:
        return UNKNOWN
    warning, critical = view.thresholds.retained_wal_warning_gb, view.thresholds.retained_wal_critical_gb
    severity = view.level(ProblemCode.REVERSE_RETAINED_WAL, reverse.retained_wal_bytes / 1e9, warning, critical)
    if severity is None:
        return None
    kept = size_text(reverse.retained_wal_bytes)
    return severity, f"the base keeps {kept} of WAL for the legacy (warning {warning:g}, critical {critical:g} GB)"


def _reverse_errors(view: View, reverse: ReverseSample) -> Verdict:
    grown = growth(view, _errors_of)
    if grown is None:
        return UNKNOWN
    if grown == 0:
        return None
    severity = Severity.CRITICAL if ProblemCode.REVERSE_APPLY_ERRORS in view.raised else Severity.WARNING
    return severity, f"{grown} apply errors on the legacy since the last look, {reverse.apply_errors} in all"


def _reverse_of(sample: StreamSample | None) -> ReverseSample | None:
    return sample.cutover.reverse if sample is not None and sample.cutover is not None else None


def _errors_of(sample: StreamSample) -> int | None:
    reverse = _reverse_of(sample)
    return reverse.apply_errors if reverse else None


CUTOVER_RULES: Mapping[ProblemCode, Rule] = {
    ProblemCode.WRITES_HELD: _writes_held,
    ProblemCode.CUTOVER_UNFINISHED: _unfinished,
    ProblemCode.LEGACY_WRITABLE: _with_the_base_in_charge(_legacy_writable),
    ProblemCode.BASE_UNGUARDED: _with_the_base_in_charge(_base_unguarded),
    ProblemCode.BASE_LEAF_LOST: _with_the_base_in_charge(_base_leaf_lost),
    ProblemCode.REVERSE_DOWN: _of_reverse(_reverse_down),
    ProblemCode.REVERSE_SLOT_LOST: _of_reverse(_reverse_slot),
    ProblemCode.REVERSE_RETAINED_WAL: _of_reverse(_reverse_retained),
    ProblemCode.REVERSE_APPLY_ERRORS: _of_reverse(_reverse_errors),
}
CUTOVER_STEPS: Mapping[ProblemCode, str] = {
    ProblemCode.WRITES_HELD: "run `migration-assets release-writes`",
    ProblemCode.CUTOVER_UNFINISHED: "run `migration-assets release-writes`",
    ProblemCode.LEGACY_WRITABLE: "run `migration-assets hold-again`; then `migration-assets repair-legacy` over every"
    " quarter shows what was written there meanwhile: it was not replicated. A hold of an earlier version held all but"
    " sessions with session_replication_role = replica",
    ProblemCode.BASE_UNGUARDED: "run `migration-assets hold-again`; where a TRUNCATE took rows from the base, the"
    " legacy has them still",
    ProblemCode.BASE_LEAF_LOST: "run the statements named here: what was detached has its rows still, and no"
    " application reads them. What was dropped is on the legacy still, as far as the reverse stream had brought it:"
    " roll back, or take it from a backup",
    ProblemCode.REVERSE_DOWN: "read the legacy's server log for the worker's error; see that the legacy's server"
    " reaches the base (MIGRATION_BASE_URL_FOR_LEGACY) and that worker slots are free; never use SKIP",
    ProblemCode.REVERSE_SLOT_LOST: "nothing is lost on the base. Where a rollback is to stay possible "
    + _FOLLOW_ANEW
    + "; else go on there, and decommission the legacy when the time has come",
    ProblemCode.REVERSE_RETAINED_WAL: "see why the legacy lags; mind the base's disk; where no rollback is wanted any"
    " more, decommission the legacy",
    ProblemCode.REVERSE_APPLY_ERRORS: "read the legacy's server log for the error. Where a key is there twice: an"
    " application used a key again in another week, which the base allows (its key has the control column in it) and"
    " the legacy does not. Give the new row another key on the base; on the legacy delete the old row of that key, as"
    " the migration's role: BEGIN; SELECT set_config('migration.hold_token', token, true) FROM migration.hold_token;"
    " DELETE …; COMMIT; the stream then goes on by itself. Put the row there again in the same way; never use SKIP,"
    " which drops the whole transaction",
}
