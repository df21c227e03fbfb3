"""Checks that can be run alone at any time, whatever was materialized when: of the stream, and of a sign-off."""

from collections.abc import Sequence

import dagster as dg

from migration_assets.defs.assets.change_stream import change_stream
from migration_assets.defs.assets.sign_off import sign_off
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.looks import look_metadata, problems_table
from migration_assets.defs.partitions import fiscal_quarters
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.stream_sample import ProblemCode
from migration_assets.domain.stream_thresholds import Severity
from migration_assets.domain.stream_watch import Problem
from migration_assets.evidence.approval import sign_off_state
from migration_assets.ledger.stream import StreamStatus
from migration_assets.runtime import Migration
from migration_assets.watch.observation import Observed, observe

# Of the stream that is to run now.
_OF_LAG = frozenset({ProblemCode.LAG, ProblemCode.HEARTBEAT_FAILED, ProblemCode.REVERSE_DOWN})


@dg.asset_check(
    asset=change_stream,
    partitions_def=fiscal_quarters,
    description=(
        "Both sides answer, the subscription and its worker run, the slot is kept, nothing was altered by hand, nothing"
        " fails to apply. While the base is in charge: the reverse stream runs, and one side alone accepts writes. One"
        " look, now; it speaks for the whole stream. Can be run alone."
    ),
)
def stream_is_healthy(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """Everything but the lag."""
    observed = _look(migration)
    of_lag = _OF_LAG - {ProblemCode.REVERSE_DOWN}
    result = _result(observed, [problem for problem in observed.problems if problem.code not in of_lag])
    sample = observed.sample
    case = sample.cutover.case if sample.cutover else None
    if result.passed and case is not None:
        return result._replace(description=_sentence(case))
    if result.passed and sample.status != StreamStatus.LIVE:
        # Whether it is an alert depends on how long it stands; that it stands is no health in any case.
        why = f"The stream is {sample.status} ({sample.reason})."
        return result._replace(passed=False, severity=dg.AssetCheckSeverity.WARN, description=why)
    return result


@dg.asset_check(
    asset=change_stream,
    partitions_def=fiscal_quarters,
    description=(
        "A marker written on the legacy just now arrived on the base within MIGRATION_LAG_WARNING_SECONDS. Around month"
        " and quarter ends the limit is stricter. While the base is in charge it is the other way round. Can be run"
        " alone."
    ),
)
def lag_within_threshold(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """The lag; one that cannot be measured is not within anything."""
    observed = _look(migration)
    result = _result(observed, [problem for problem in observed.problems if problem.code in _OF_LAG])
    cutover = observed.sample.cutover
    if result.passed and cutover is not None and cutover.case is not None:
        # A cutover that works keeps the stream from being measured; after a decommission there is none.
        at_work = cutover.under_way is not None and cutover.under_way.alive
        fine = at_work or cutover.decommissioned is not None or observed.sample.seconds_behind is not None
        return result._replace(passed=fine, description=_sentence(cutover.case))
    if result.passed and observed.sample.lag_seconds is None:
        why = "; ".join(problem.what for problem in observed.problems) or "the stream stands"
        return result._replace(passed=False, description=f"The lag cannot be measured: {why}")
    return result


@dg.asset_check(
    asset=sign_off,
    partitions_def=fiscal_quarters,
    description=(
        "Nothing happened to the quarter since it was signed off: all its slices are still signed_off, and the evidence"
        " in the ledger still has the SHA-256 that was signed. Can be run alone."
    ),
)
def still_stands(context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """The newest sign-off, as it is now."""
    with readable_failures():
        state = sign_off_state(migration, FiscalQuarter.parse(context.partition_key))
    if state.signed is None:
        return dg.AssetCheckResult(passed=False, description="Nobody has signed the quarter off.")
    return dg.AssetCheckResult(
        passed=state.stands,
        description="\n".join(["The sign-off is void:", *(f"- {reason}" for reason in state.void)])
        if state.void
        else f"Signed off by {state.signed.approved_by}, and nothing happened since.",
        metadata={
            "approved_by": dg.MetadataValue.text(state.signed.approved_by),
            "signed_at": dg.MetadataValue.timestamp(state.signed.signed_at),
            "sha256": dg.MetadataValue.text(state.signed.sha256),
            "reasons": dg.MetadataValue.int(len(state.void)),
        },
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _look(migration: Migration) -> Observed:
    with readable_failures():
        return observe(migration)


def _result(observed: Observed, problems: Sequence[Problem]) -> dg.AssetCheckResult:
    sample = observed.sample
    if sample.status is None and sample.base_error is None and not problems:
        return dg.AssetCheckResult(passed=False, description="Nothing to look at: no change stream was begun yet.")
    critical = any(problem.severity is Severity.CRITICAL for problem in problems)
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR if critical or not problems else dg.AssetCheckSeverity.WARN,
        description="\n".join(f"{problem.what}. Next: {problem.next_step}." for problem in problems) or None,
        metadata={**look_metadata(sample), "problems": problems_table(problems)},
    )
