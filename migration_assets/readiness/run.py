"""Runs every examination; what one of them cannot do is a finding, and never keeps the others from running."""

from collections.abc import Callable, Mapping

import psycopg

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.readiness import ReadinessPlan
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases, Timeouts, uncounted
from migration_assets.preflight.foreign_publications import examine_followers, examine_foreign_publications
from migration_assets.preflight.other_writers import examine_both
from migration_assets.preflight.own_schema import examine_own_schema
from migration_assets.preflight.publication import examine_refused_changes
from migration_assets.preflight.server_pair import compare_servers
from migration_assets.preflight.wording import error_text
from migration_assets.readiness import (
    activity,
    coverage,
    extensions,
    grants,
    lock_table,
    outside,
    reverse_stream,
    sequences,
    server_settings,
    statistics,
    structure,
)
from migration_assets.readiness.sides import Sides

Examination = Callable[[Sides], list[Finding]]
_TIMEOUTS = Timeouts(lock=2_000, statement=60_000, idle_in_transaction=900_000)


def _server_pair(sides: Sides) -> list[Finding]:
    # Its time zone is that of our own sessions' server default; `server_settings` looks at the applications'.
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
    "rows_outside": (Area.DATA, outside.examine_outside),
    "sequences": (Area.TABLE, sequences.examine_sequences),
    "structure": (Area.TABLE, structure.examine_structure),
    "other_writers": (Area.TABLE, lambda sides: examine_both(sides.legacy, sides.base, sides.spec)),
    "updates_refused": (Area.TABLE, _refused_changes),
    "foreign_publication": (Area.LEGACY, _foreign_publications),
    "own_schema": (Area.LEGACY, _own_schemas),
    "grants": (Area.BASE, grants.examine_grants),
    "reverse_stream": (Area.BASE, reverse_stream.examine_reverse),
    "statistics": (Area.BASE, statistics.examine_statistics),
    "activity": (Area.BASE, activity.examine_activity),
    "settings": (Area.BASE, server_settings.examine_settings),
    "lock_table": (Area.BASE, lock_table.examine_lock_table),
    "server_pair": (Area.BASE, _server_pair),
    "extensions": (Area.BASE, extensions.examine_extensions),
}


def examine_readiness(
    databases: Databases, spec: TableSpec, calendar: FiscalCalendar, plan: ReadinessPlan
) -> list[Finding]:
    """Everything but the stream and late bookings, which are looked at elsewhere. Changes nothing.

    Never raises for what it finds, nor for a side that is away: that is the blocking finding `reachable`.
    """
    findings: list[Finding] = []
    try:
        with (
            databases.session("legacy", "readiness", _TIMEOUTS) as legacy,
            databases.session("base", "readiness", _TIMEOUTS) as base,
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
        return [Finding(code, area, Severity.BLOCKING, evidence, "mend what the message says, then look again")]
