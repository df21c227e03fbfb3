"""The asset checks that can be run alone at any time, whenever their assets were materialized.

They check the change stream, the sign-off, the partitions ahead, the cutover and the archives. Each looks at the
servers or the ledger now; what cannot be seen is never reported as healthy.
"""

from collections.abc import Sequence

import dagster as dg
import psycopg

from migration_assets.archive.archiving import last_trial
from migration_assets.defs.archives import parquet_archive, retired_slice
from migration_assets.defs.change_stream import change_stream
from migration_assets.defs.cutover import legacy_cutover
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import fiscal_quarters, fiscal_weeks
from migration_assets.defs.proofs import sign_off
from migration_assets.defs.shown import Metadata, look_metadata, problems_table, table
from migration_assets.defs.slices import quarter_partitions
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.domain.stream_watch import Problem
from migration_assets.evidence.approval import sign_off_state
from migration_assets.ledger.charge import why_nobody_compares
from migration_assets.ledger.stream import StreamStatus
from migration_assets.postgres.server_messages import told
from migration_assets.quarters.flaws import Flaw
from migration_assets.quarters.opening import RunwaySeen, see_flaws, see_runway
from migration_assets.readiness.step import reverse_health, reverse_problems, side_in_charge, writes_held
from migration_assets.retirement.retiring import late_in
from migration_assets.runtime import Migration
from migration_assets.watch.watching import Observed, observe

_NO_QUARTER = "Nothing to check: no quarter was ever opened in the base."
# The problems that lag_within_threshold reports.
_OF_LAG = frozenset({ProblemCode.LAG, ProblemCode.HEARTBEAT_FAILED, ProblemCode.REVERSE_DOWN})


@dg.asset_check(
    asset=change_stream,
    partitions_def=fiscal_quarters,
    description=(
        "Both sides answer, the subscription and its worker run, the slot is kept, nothing was altered by hand, no"
        " change fails to apply. While the base is in charge: the reverse stream runs, and only one side accepts"
        " writes. One look now, for the whole stream. Can be run alone."
    ),
)
def stream_is_healthy(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """Every problem of the stream except its lag."""
    observed = _look(migration)
    of_lag = _OF_LAG - {ProblemCode.REVERSE_DOWN}
    result = _result(observed, [problem for problem in observed.problems if problem.code not in of_lag])
    sample = observed.sample
    case = sample.cutover.case if sample.cutover else None
    if result.passed and case is not None:
        return result._replace(description=_sentence(case))
    if result.passed and sample.status != StreamStatus.LIVE:
        # It depends on the duration whether a paused stream is an alert, but it is never healthy.
        why = f"The stream is {sample.status} ({sample.reason})."
        return result._replace(passed=False, severity=dg.AssetCheckSeverity.WARN, description=why)
    return result


@dg.asset_check(
    asset=change_stream,
    partitions_def=fiscal_quarters,
    description=(
        "A marker written on the legacy just now arrived on the base within MIGRATION_LAG_WARNING_SECONDS. Around month"
        " and quarter ends the limit is stricter. While the base is in charge, the marker goes from base to legacy. Can"
        " be run alone."
    ),
)
def lag_within_threshold(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """The lag; the check fails if it cannot be measured."""
    observed = _look(migration)
    result = _result(observed, [problem for problem in observed.problems if problem.code in _OF_LAG])
    cutover = observed.sample.cutover
    if result.passed and cutover is not None and cutover.case is not None:
        # During a cutover the stream cannot be measured; after a decommission there is none.
        running = cutover.under_way is not None and cutover.under_way.alive
        passed = running or cutover.decommissioned is not None or observed.sample.seconds_behind is not None
        return result._replace(passed=passed, description=_sentence(cutover.case))
    if result.passed and observed.sample.lag_seconds is None:
        why = "; ".join(problem.what for problem in observed.problems) or "the stream does not run"
        return result._replace(passed=False, description=f"The lag cannot be measured: {why}")
    return result


@dg.asset_check(
    asset=sign_off,
    partitions_def=fiscal_quarters,
    description=(
        "The quarter is unchanged since its sign-off: all its slices are still signed_off, and the evidence in the"
        " ledger still has the SHA-256 that was signed. Can be run alone."
    ),
)
def still_stands(context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """Whether the newest sign-off is still valid."""
    with readable_failures():
        state = sign_off_state(migration, FiscalQuarter.parse(context.partition_key))
    if state.signed is None:
        return dg.AssetCheckResult(passed=False, description="Nobody has signed the quarter off.")
    return dg.AssetCheckResult(
        passed=state.stands,
        description="\n".join(["The sign-off is void:", *(f"- {reason}" for reason in state.void)])
        if state.void
        else f"Signed off by {state.signed.approved_by}, and the quarter is unchanged since.",
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
        return dg.AssetCheckResult(passed=False, description="Nothing to check: no change stream was begun yet.")
    critical = any(problem.severity is Severity.CRITICAL for problem in problems)
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR if critical or not problems else dg.AssetCheckSeverity.WARN,
        description="\n".join(f"{problem.what}. Next: {problem.next_step}." for problem in problems) or None,
        metadata={**look_metadata(sample), "problems": problems_table(problems)},
    )


def _severity(severity: Severity | None) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.WARN if severity is Severity.WARNING else dg.AssetCheckSeverity.ERROR


def _not_known(error: Exception) -> dg.AssetCheckResult:
    """The check fails, since what cannot be seen must not be reported as healthy."""
    return dg.AssetCheckResult(
        passed=False,
        description=f"It cannot be checked now: {told(error)}",
        metadata={"error": dg.MetadataValue.text(type(error).__name__)},
    )


@dg.asset_check(
    asset=quarter_partitions,
    partitions_def=fiscal_quarters,
    # In a run of quarter_opener the quarter is under CDC only after change_stream.
    additional_deps=[change_stream],
    description=(
        "Every instant of the next MIGRATION_RUNWAY_DAYS has a leaf, MIGRATION_RUNWAY_QUARTERS quarters are open, the"
        " current one included, and they are under CDC if the change stream has reached the present. A warning below"
        " that, an error below a quarter of the days. One look now, for the whole table. Can be run alone."
    ),
)
def runway_is_sufficient(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """How far ahead the base is prepared."""
    with readable_failures():
        seen = see_runway(migration)
    if seen.runway is None:
        return dg.AssetCheckResult(passed=False, description=_NO_QUARTER)
    policy = migration.runway_policy
    wanted = f"wanted: {policy.days} days and {policy.quarters} quarters"
    return dg.AssetCheckResult(
        passed=seen.severity is None,
        severity=_severity(seen.severity),
        description=f"{seen.runway}; whole quarters: {seen.runway.quarters}; {wanted}."
        + ("" if seen.severity is None else " Next: read the last tick of quarter_opener."),
        metadata=_runway_metadata(seen),
    )


@dg.asset_check(
    asset=quarter_partitions,
    partitions_def=fiscal_quarters,
    description=(
        "Every partition of the base belongs to the calendar and has its bounds. Every week from the first to the last"
        " open quarter has its leaf, unless it was retired. There is no default partition and no pending detach. Reads"
        " only the catalogue, for the whole table. Can be run alone."
    ),
)
def no_gap_no_overlap(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """Compare the partition bounds in the catalogue with the calendar."""
    with readable_failures():
        flaws = see_flaws(migration)
    if flaws is None:
        return dg.AssetCheckResult(passed=False, description=_NO_QUARTER)
    critical = any(flaw.severity is Severity.CRITICAL for flaw in flaws)
    return dg.AssetCheckResult(
        passed=not flaws,
        severity=_severity(Severity.CRITICAL if critical or not flaws else Severity.WARNING),
        description="\n".join(f"{flaw.what}. Next: {flaw.next_step}." for flaw in flaws) or None,
        metadata={"flaws": dg.MetadataValue.int(len(flaws)), "list": _flaws_table(flaws)},
    )


def _runway_metadata(seen: RunwaySeen) -> Metadata:
    runway, places = seen.runway, seen.places
    if runway is None or places is None:
        return {}
    last = max(places.attached, default=None)
    bound = f"{seen.last_bound:%Y-%m-%d %H:%M} UTC" if seen.last_bound else "none: no leaf is attached"
    return {
        "days": dg.MetadataValue.float(round(runway.days, 3)),
        "quarters": dg.MetadataValue.int(runway.quarters),
        "ends_at": dg.MetadataValue.timestamp(runway.ends_at),
        "ends_with": dg.MetadataValue.text(f"{runway.ends_with.key} {runway.because}"),
        "under_cdc_counts": dg.MetadataValue.bool(runway.followed),
        "last_bound": dg.MetadataValue.text(bound),
        "last_leaf": dg.MetadataValue.text(last.key if last else "none"),
    }


def _flaws_table(flaws: Sequence[Flaw]) -> dg.TableMetadataValue:
    return table(
        ("severity", "what", "next"),
        ({"severity": flaw.severity.value, "what": flaw.what, "next": flaw.next_step} for flaw in flaws),
    )


@dg.asset_check(
    asset=legacy_cutover,
    description=(
        "The side that is in charge accepts the applications' writes, or a running cutover holds them for a moment."
        " Fails if the process of that cutover died, and then says how to release the writes. Can be run alone."
    ),
)
def writes_are_accepted(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """Ask the servers whether writes are held."""
    try:
        held = writes_held(migration)
    except (psycopg.Error, MigrationError) as error:
        return _not_known(error)
    if held is None:
        return dg.AssetCheckResult(passed=True, description=_accepting(migration))
    metadata: Metadata = {"side": dg.MetadataValue.text(held.side), "next": dg.MetadataValue.text(held.next_step)}
    if held.since is not None:
        metadata["held_since"] = dg.MetadataValue.timestamp(held.since)
    return dg.AssetCheckResult(
        passed=held.alive is True, description=f"{held.what}. Next: {held.next_step}.", metadata=metadata
    )


@dg.asset_check(
    asset=legacy_cutover,
    description=(
        "While the base is in charge: its writes arrive on the legacy and the reverse stream's slot is kept, so that a"
        " rollback would lose nothing. Passes while the legacy is in charge, since there is no reverse stream then. Can"
        " be run alone."
    ),
)
def reverse_stream_is_healthy(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """Look once, with a marker sent from base to legacy."""
    try:
        health = reverse_health(migration)
    except (psycopg.Error, MigrationError) as error:
        return _not_known(error)
    if health is None:
        return dg.AssetCheckResult(
            passed=True, description="The legacy is in charge: there is no reverse stream, and none is needed."
        )
    problems = reverse_problems(migration, health)
    metadata: Metadata = {
        "enabled": dg.MetadataValue.bool(health.enabled),
        "running": dg.MetadataValue.bool(health.running),
        "marker_arrives": dg.MetadataValue.bool(health.arrives),
        "wal_status": dg.MetadataValue.text(health.wal_status or "no slot"),
    }
    if health.retained_wal_bytes is not None:
        metadata["retained_wal_bytes"] = dg.MetadataValue.int(health.retained_wal_bytes)
    return dg.AssetCheckResult(
        passed=not problems,
        description="A rollback would lose nothing: the legacy follows the base."
        if not problems
        else "A rollback is not possible now: " + "; ".join(problems) + ". Next: repair it while the base is in charge"
        " (`migration-assets rollback` shows it again); no rollback can bring back what the slot has lost.",
        metadata=metadata,
    )


def _accepting(migration: Migration) -> str:
    try:
        return f"The {side_in_charge(migration)} is in charge and accepts writes."
    except psycopg.OperationalError as error:
        # Only the legacy answered; it would refuse writes if the base were in charge.
        return f"The legacy accepts writes; the base cannot be reached: {told(error)}"


@dg.asset_check(
    asset=parquet_archive,
    partitions_def=fiscal_weeks,
    description=(
        "The week was archived, restored or drilled within MIGRATION_DRILL_MAX_AGE_DAYS: an archive that was not"
        " restored for a long time is not known to be restorable. The job restore_drill tries it. Can be run alone."
    ),
)
def drilled_lately(
    context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[Migration]
) -> dg.AssetCheckResult:
    """The age of the last proof that the archive can be restored."""
    with readable_failures():
        trial = last_trial(migration, FiscalWeek.parse(str(context.partition_key)))
    if trial is None:
        return dg.AssetCheckResult(passed=False, description="The week has no archive.")
    limit = migration.settings.drill_max_age_days
    return dg.AssetCheckResult(
        passed=trial.equal and trial.age_days <= limit,
        severity=dg.AssetCheckSeverity.WARN if trial.equal else dg.AssetCheckSeverity.ERROR,
        description=f"{trial.what} {trial.age_days:,.1f} days ago"
        + ("" if trial.equal else f", and it failed: {trial.error}")
        + (f"; more than {limit:g} days: run the job restore_drill" if trial.age_days > limit else ""),
        metadata={
            "age_days": dg.MetadataValue.float(round(trial.age_days, 3)),
            "drills": dg.MetadataValue.int(trial.drills),
        },
    )


@dg.asset_check(
    asset=retired_slice,
    partitions_def=fiscal_weeks,
    description=(
        "While the legacy is in charge: it holds exactly the archived rows of the retired week. A booking that came"
        " after the retirement shows here and prevents the week from being dropped. While the base is in charge"
        " nothing can come late. Can be run alone."
    ),
)
def nothing_came_late(
    context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[Migration]
) -> dg.AssetCheckResult:
    """Compare the legacy's rows of the week with the archive's fingerprint."""
    with readable_failures():
        not_compared = why_nobody_compares(migration)
        late = late_in(migration, FiscalWeek.parse(str(context.partition_key)))
    if not_compared is not None:
        why, passed = not_compared
        return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, description=f"{why}.")
    return dg.AssetCheckResult(
        passed=late is None,
        description=None
        if late is None
        else f"{late}. Next: restored_slice, change_stream for the quarter, then parquet_archive again.",
        metadata={"late_rows": dg.MetadataValue.int(late.rows if late else 0)},
    )
