"""Readiness for the cutover, for whoever asks: the databases, the stream, and what came late."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from migration_assets.cutover.comparing import to_compare
from migration_assets.cutover.cutover_planning import cutover_plan
from migration_assets.cutover.estimate import (
    estimate_comparison,
    in_time,
    told,
    ways_out,
)
from migration_assets.domain.cutover_state import CutoverKind
from migration_assets.domain.errors import MigrationError, ServerChangedError
from migration_assets.domain.findings import Area, Finding, Severity, blocking, with_acceptances, worst_first
from migration_assets.domain.freshness import instant_text
from migration_assets.domain.readiness import ReadinessPlan, stream_findings
from migration_assets.ledger.acceptances import read_acceptances
from migration_assets.ledger.charge import base_in_charge_since
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.preflight.wording import error_text, info
from migration_assets.readiness.run import examine_readiness
from migration_assets.retirement.checks import late_bookings
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan
from migration_assets.watch.observation import observe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Readiness:
    """All findings, worst first."""

    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing blocks."""
        return not blocking(self.findings)


def examine_cutover(migration: Migration) -> Readiness:
    """Look at everything; changes nothing but heartbeats, and notes where nothing blocks.

    Raises:
        LedgerError: The ledger is newer than this program.
        SettingsError: A connection URL cannot be read.
    """
    settings = migration.settings
    plan = ReadinessPlan(
        now=migration.now(),
        max_age=timedelta(hours=settings.validation_max_age_hours),
        sequence_margin=settings.cutover_sequence_margin,
    )
    try:
        with migration.databases.session("base", "readiness") as base:
            ensure_ledger(base)
            since = base_in_charge_since(base, migration.spec.relation)
            acceptances = read_acceptances(base, migration.spec.relation)
    except (psycopg.OperationalError, ServerChangedError) as error:
        remedy = "bring the base back, or correct MIGRATION_BASE_URL"
        return Readiness((Finding("reachable", Area.BASE, Severity.BLOCKING, error_text(error), remedy),))
    if since is not None:
        return Readiness((_over(since),))
    found = examine_readiness(migration.databases, migration.spec, migration.calendar, plan)
    findings = with_acceptances([*found, *_stream(migration), *_late(migration), _time(migration)], acceptances)
    return Readiness(tuple(worst_first(findings)))


def _over(since: datetime) -> Finding:
    evidence = f"the base is in charge since {instant_text(since)}: there is nothing to cut over"
    remedy = "nothing; or, where the legacy is to be in charge again, migration-assets rollback"
    return Finding("base_in_charge", Area.BASE, Severity.BLOCKING, evidence, remedy)


def _time(migration: Migration) -> Finding:
    """Whether what is compared while writes are held can end in time."""
    plan = cutover_plan(migration)
    try:
        with (
            migration.databases.session("base", "readiness") as base,
            migration.databases.session("legacy", "readiness") as legacy,
        ):
            found = estimate_comparison(base, plan, to_compare(base, legacy, plan))
    except (psycopg.Error, MigrationError) as error:
        evidence = f"could not be estimated: {error_text(error)}"
        return Finding("comparison_time", Area.DATA, Severity.WARNING, evidence, "mend it, then look again")
    evidence = f"{told(found)}; the timeout is {plan.timeout_seconds:g} s"
    if in_time(found, plan):
        return info("comparison_time", Area.DATA, evidence)
    # What changed is validated once more before anybody is held, where the settings say so.
    severity = Severity.BLOCKING if plan.compare_all else Severity.WARNING
    return Finding("comparison_time", Area.DATA, severity, evidence, ways_out(found, plan, CutoverKind.CUTOVER))


def _stream(migration: Migration) -> list[Finding]:
    observed = observe(migration)
    return stream_findings(observed.problems, observed.sample.status, observed.sample.lag_seconds)


def _late(migration: Migration) -> list[Finding]:
    """Weeks that left the stream, compared in full with what their archives hold."""
    try:
        late = late_bookings(StreamPlan.of(migration))
    except (psycopg.Error, MigrationError) as error:
        evidence = f"could not be examined: {error_text(error)}"
        return [Finding("late_bookings", Area.DATA, Severity.BLOCKING, evidence, "mend it, then look again")]
    if not late:
        return [info("late_bookings", Area.DATA, "no week that left the stream got a booking afterwards")]
    return [
        Finding(
            "late_bookings",
            Area.DATA,
            Severity.BLOCKING,
            f"{one.week.key} ({one.state}): the legacy has {one.legacy}, its archive {one.archived}",
            f"migration-assets restore {one.week.quarter.key} {one.week.name}, materialize change_stream for its"
            " quarter, then validated_slice, sign_off and parquet_archive",
        )
        for one in late
    ]
