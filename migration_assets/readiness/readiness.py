"""Runs every examination of readiness for the cutover, and keeps which blocking findings a person has accepted.

An examination that cannot be done is a finding and never keeps the others from running.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from migration_assets.cutover.comparing import to_compare
from migration_assets.cutover.estimate import estimate_comparison, in_time, told, ways_out
from migration_assets.cutover.plan import cutover_plan
from migration_assets.domain.errors import MigrationError, ServerChangedError
from migration_assets.domain.findings import (
    Acceptance,
    Area,
    Finding,
    Severity,
    blocking,
    with_acceptances,
    worst_first,
)
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.states import CutoverKind, instant_text
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.charge import base_in_charge_since
from migration_assets.ledger.preflights import (
    latest_preflight,
    read_acceptances,
    record_acceptance,
    withdraw_acceptance,
)
from migration_assets.ledger.schema import require_ledger
from migration_assets.ledger.steps import open_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import EXAMINATION, Databases, uncounted
from migration_assets.preflight.other_writers import examine_both, examine_followers, examine_foreign_publications
from migration_assets.preflight.own_schema import examine_own_schema
from migration_assets.preflight.plan import error_text, info
from migration_assets.preflight.rights import examine_refused_changes
from migration_assets.preflight.servers import compare_servers
from migration_assets.readiness import coverage, reverse_stream, rights, servers, structure
from migration_assets.readiness.rules import ReadinessPlan, Sides, stream_findings
from migration_assets.retirement.checks import late_bookings
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan
from migration_assets.watch.watching import observe

Examination = Callable[[Sides], list[Finding]]


def _server_pair(sides: Sides) -> list[Finding]:
    # Left out: it compares the time zones of our own sessions. `server_settings` compares those of the applications.
    return [one for one in compare_servers(sides.legacy, sides.base) if one.code != "time_zone"]


def _refused_changes(sides: Sides) -> list[Finding]:
    return [
        *examine_refused_changes(sides.legacy, "legacy", sides.spec),
        *examine_refused_changes(sides.base, "base", sides.spec),
    ]


def _own_schemas(sides: Sides) -> list[Finding]:
    return [*examine_own_schema(sides.legacy, "legacy"), *examine_own_schema(sides.base, "base")]


def _foreign_publications(sides: Sides) -> list[Finding]:
    return [
        *examine_foreign_publications(sides.legacy, "legacy"),
        *examine_foreign_publications(sides.base, "base"),
        *examine_followers(sides.legacy, "legacy", sides.spec),
        *examine_followers(sides.base, "base", sides.spec),
    ]


EXAMINATIONS: Mapping[str, tuple[Area, Examination]] = {
    "sign_offs": (Area.DATA, coverage.examine_sign_offs),
    "rows_outside": (Area.DATA, coverage.examine_outside),
    "sequences": (Area.TABLE, structure.examine_sequences),
    "structure": (Area.TABLE, structure.examine_structure),
    "other_writers": (Area.TABLE, lambda sides: examine_both(sides.legacy, sides.base, sides.spec)),
    "updates_refused": (Area.TABLE, _refused_changes),
    "foreign_publication": (Area.LEGACY, _foreign_publications),
    "own_schema": (Area.LEGACY, _own_schemas),
    "grants": (Area.BASE, rights.examine_grants),
    "reverse_stream": (Area.BASE, reverse_stream.examine_reverse),
    "statistics": (Area.BASE, structure.examine_statistics),
    "activity": (Area.BASE, servers.examine_activity),
    "settings": (Area.BASE, servers.examine_settings),
    "lock_table": (Area.BASE, servers.examine_lock_table),
    "server_pair": (Area.BASE, _server_pair),
    "extensions": (Area.BASE, structure.examine_extensions),
}


def examine_readiness(
    databases: Databases, spec: TableSpec, calendar: FiscalCalendar, plan: ReadinessPlan
) -> list[Finding]:
    """Run all examinations except the stream, late bookings and the comparison's time. Changes nothing.

    What it finds never raises; nor does a side that is away: that is the blocking finding `reachable`.
    """
    findings: list[Finding] = []
    try:
        with (
            databases.session("legacy", "readiness", EXAMINATION) as legacy,
            databases.session("base", "readiness", EXAMINATION) as base,
        ):
            for connection in (legacy, base):
                connection.execute("SELECT set_config('default_transaction_read_only', 'on', false)")
            uncounted(legacy)
            of_legacy = require_table(legacy, spec.table, "legacy")
            of_base = require_table(base, spec.table, "base")
            sides = Sides(legacy, base, spec, calendar, plan, of_legacy, of_base)
            for code, (area, examine) in EXAMINATIONS.items():
                findings += _attempted(code, area, examine, sides)
    except (psycopg.OperationalError, MigrationError) as error:
        remedy = (
            error.next_step
            if isinstance(error, MigrationError) and error.next_step
            else "see `migration-assets preflight`"
        )
        findings.append(Finding("reachable", Area.BASE, Severity.BLOCKING, error_text(error), remedy))
    return findings


def _attempted(code: str, area: Area, examine: Examination, sides: Sides) -> list[Finding]:
    try:
        return examine(sides)
    except (psycopg.Error, MigrationError, ValueError) as error:
        if sides.legacy.broken or sides.base.broken:
            raise
        evidence = f"could not be examined: {error_text(error)}"
        return [Finding(code, area, Severity.BLOCKING, evidence, "repair what the message says, then look again")]


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
    """Examine everything; changes nothing but heartbeats.

    A base that is in charge already is the single finding `base_in_charge`.

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
        with open_ledger(migration, "readiness") as base:
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
    """Whether the comparison while writes are held can end within the timeout."""
    plan = cutover_plan(migration)
    try:
        with (
            migration.databases.session("base", "readiness") as base,
            migration.databases.session("legacy", "readiness") as legacy,
        ):
            found = estimate_comparison(base, plan, to_compare(base, legacy, plan))
    except (psycopg.Error, MigrationError) as error:
        evidence = f"could not be estimated: {error_text(error)}"
        return Finding("comparison_time", Area.DATA, Severity.WARNING, evidence, "repair that, then look again")
    evidence = f"{told(found)}; the timeout is {plan.timeout_seconds:g} s"
    if in_time(found, plan):
        return info("comparison_time", Area.DATA, evidence)
    # Only a warning where the cutover validates changed weeks once more before it holds writes.
    severity = Severity.BLOCKING if plan.compare_all else Severity.WARNING
    return Finding("comparison_time", Area.DATA, severity, evidence, ways_out(found, plan, CutoverKind.CUTOVER))


def _stream(migration: Migration) -> list[Finding]:
    observed = observe(migration)
    return stream_findings(observed.problems, observed.sample.status, observed.sample.lag_seconds)


def _late(migration: Migration) -> list[Finding]:
    """Compare the weeks that left the stream in full with what their archives hold."""
    try:
        late = late_bookings(StreamPlan.of(migration))
    except (psycopg.Error, MigrationError) as error:
        evidence = f"could not be examined: {error_text(error)}"
        return [Finding("late_bookings", Area.DATA, Severity.BLOCKING, evidence, "repair that, then look again")]
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


class AcceptanceError(MigrationError):
    """The finding to accept, or to withdraw, does not exist or cannot be accepted; nothing was changed."""


def accept_finding(
    migration: Migration, code: str, subject: str, *, by: str, reason: str, run_id: str | None = None
) -> None:
    """Accept one finding about one thing, for as long as that thing stays as it is now.

    Args:
        migration: Which migration.
        code: The finding's code, e.g. `incoming_foreign_key`.
        subject: The name of the thing, as the finding prints it.
        by: The person who answers for it.
        reason: Why it is acceptable.
        run_id: Noted in the chain of evidence.

    Raises:
        AcceptanceError: Neither the newest preflight nor readiness has such a finding; the error lists those that they
            have.
    """
    if not by.strip() or not reason.strip():
        raise AcceptanceError("a name and a reason are needed", state_left="nothing was changed", next_step="give both")
    relation = migration.spec.relation
    with open_ledger(migration, "accept") as base:
        latest = latest_preflight(base, relation)
    offered = _offered(latest[1] if latest else [])
    if (code, subject) not in offered:
        offered |= _offered(examine_cutover(migration).findings)
    if (code, subject) not in offered:
        listed = "; ".join(f"{one} {about}" for one, about in offered) or "nothing at present"
        raise AcceptanceError(
            f"no finding {code} about {subject} can be accepted now. Those that can: {listed}",
            where=relation,
            state_left="nothing was changed",
            next_step="run `migration-assets preflight` and `migration-assets readiness`, and copy code and name",
        )
    with migration.databases.session("base", "accept") as base:
        record_acceptance(base, relation, offered[code, subject], by=by.strip(), reason=reason.strip(), run_id=run_id)


def withdraw(migration: Migration, code: str, subject: str) -> None:
    """Take an acceptance back: from the next examination on the finding blocks again.

    Raises:
        AcceptanceError: The finding was not accepted.
    """
    with open_ledger(migration, "accept") as base:
        if not withdraw_acceptance(base, migration.spec.relation, code, subject):
            raise AcceptanceError(
                f"{code} about {subject} was not accepted",
                where=migration.spec.relation,
                state_left="nothing was changed",
                next_step="`migration-assets accept` lists what was",
            )


def accepted(migration: Migration) -> list[Acceptance]:
    """All acceptances that are valid now, the oldest first."""
    with migration.databases.session("base", "accept") as base:
        require_ledger(base)
        return read_acceptances(base, migration.spec.relation)


def _offered(findings: "list[Finding] | tuple[Finding, ...]") -> dict[tuple[str, str], Finding]:
    return {(finding.code, finding.subject): finding for finding in findings if finding.acceptable}
