"""One preflight of a migration: examined, and kept in the ledger where the next steps look for it."""

from dataclasses import dataclass

import psycopg
from psycopg import errors

from migration_assets.domain.errors import ForeignObjectError, ServerChangedError
from migration_assets.domain.findings import Acceptance, Area, Finding, blocking, with_acceptances, worst_first
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.ledger.acceptances import read_acceptances
from migration_assets.ledger.own_objects import ledger_version, may_read_ledger
from migration_assets.ledger.preflights import record_preflight
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.side_in_charge import require_legacy
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import uncounted
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.private_files import examine_files
from migration_assets.preflight.run import run_preflight
from migration_assets.quarters.legacy_weeks import held_quarters
from migration_assets.runtime import Migration


@dataclass(frozen=True)
class Examined:
    """All findings, and the quarters that the legacy holds: none where something blocks."""

    findings: list[Finding]
    quarters: list[FiscalQuarter]


def examine(migration: Migration, run_id: str | None = None) -> Examined:
    """Run preflight; changes nothing but the ledger, which it creates where it may.

    Raises:
        LedgerError: The ledger is newer than this program.
        BaseInChargeError: The base is in charge; the last preflight stays what it was, for the time after a rollback.
    """
    _require_something_to_migrate(migration)
    spec, calendar, settings = migration.spec, migration.calendar, migration.settings
    for_base, for_legacy = settings.legacy_url_for_base, settings.base_url_for_legacy
    plan = PreflightPlan(
        parallel_copies=settings.weeks_at_once,
        wanted_copies=settings.parallel_copies,
        window_hours=settings.window_hours,
        target_gb_per_hour=settings.target_gb_per_hour,
        as_of=migration.now(),
        legacy_url_for_base=for_base.get_secret_value() if for_base else None,
        base_url_for_legacy=for_legacy.get_secret_value() if for_legacy else None,
    )
    findings = [*run_preflight(migration.databases, spec, calendar, plan=plan), *examine_files(migration)]
    findings = worst_first(with_acceptances(findings, _record(migration, findings, run_id)))
    if blocking(findings):
        return Examined(findings, [])
    with migration.databases.session("legacy", "preflight") as legacy:
        uncounted(legacy)
        description = require_table(legacy, spec.table, "legacy")
        quarters = held_quarters(legacy, description, spec, calendar)
    return Examined(findings, quarters)


def _require_something_to_migrate(migration: Migration) -> None:
    try:
        with migration.databases.session("base", "preflight") as base:
            if not may_read_ledger(base) or not ledger_version(base):
                return  # a finding says so; or tables that are named like the ledger's may be somebody else's
        require_legacy(migration, "there is nothing to migrate from the legacy any more")
    except (psycopg.OperationalError, ForeignObjectError, ServerChangedError):
        return  # a base that is away, a standby, and a ledger that is not ours are findings


def _record(migration: Migration, findings: list[Finding], run_id: str | None) -> list[Acceptance]:
    """Keep the findings in the ledger; blocking ones must get there if at all possible: they are the gate.

    Returns:
        What persons have accepted. The findings are kept as they were found: an acceptance can be taken back.
    """
    # A ledger is made in no database that is not the base.
    nowhere = {("reachable", Area.BASE), ("two_databases", Area.BASE)}
    if any((finding.code, finding.area) in nowhere for finding in blocking(findings)):
        return []
    try:
        with migration.databases.session("base", "preflight") as base:
            ensure_ledger(base)
            record_preflight(base, migration.spec.relation, findings, run_id)
            return read_acceptances(base, migration.spec.relation)
    except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction, ForeignObjectError, ServerChangedError):
        if not blocking(findings):
            raise  # else a finding says so already, and nothing can be written to such a base anyway
        return []
