"""The demo's second half: the change stream, exact validation under live traffic, a fault, its repair, the sign-off."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql
from rich.console import Console

from migration_assets.defs.runs import RunOutcome
from migration_assets.demo.equality import FullComparison
from migration_assets.demo.watch import StreamWatch, applied_changes
from migration_assets.demo.worker import materialize, run_job
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.sql_text import table_name
from migration_assets.runtime import Migration

_DAMAGED_WEEK = 5
_REPAIR: dict[str, Any] = {"validated_slice": {"action": "REPAIR", "dry_run": False}}
_APPROVAL = {"approved_by": "the demo", "note": "made-up data on embedded servers"}


@dataclass
class CdcStory:
    """What the second half measured; everything else is in the ledger."""

    changes_before: int = 0
    changes_after: int = 0
    lags: list[float] = field(default_factory=list[float])
    alerts: list[str] = field(default_factory=list[str])
    validated: int = 0
    injected: int = 0
    found: str = ""
    repaired: bool = False
    reconciled: bool = False
    signed: bool = False
    equality: FullComparison | None = None
    failures: list[str] = field(default_factory=list[str])

    def note(self, what: str, outcome: RunOutcome) -> bool:
        """Whether a run succeeded; a failure is kept."""
        if not outcome.success:
            self.failures.append(f"{what}: {outcome.error}")
        return outcome.success


def tell_cdc(
    console: Console, migration: Migration, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory
) -> None:
    """From the last copy to the sign-off, while the traffic goes on; every step is a Dagster run."""
    with console.status("Change stream: slot, publication, every week trued up against the slot's snapshot"):
        if not story.note("change_stream", pool.submit(materialize, "change_stream", quarter).result()):
            return
    with StreamWatch(migration) as watch:
        with migration.databases.session("base", "demo") as base:
            story.changes_before = applied_changes(base, migration.spec)
        console.print("Change stream: on. The base follows the legacy; every week is validated while writes go on.")
        validate_weeks(console, migration, quarter, pool, story)
        _break_and_mend(console, migration, quarter, pool, story)
        approve(console, quarter, pool, story)
    story.lags, story.alerts = watch.lags, watch.alerts


def approve(console: Console, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory) -> None:
    """Reconcile the quarter, and sign it off."""
    with console.status(f"Reconciliation of the 13 weeks of {quarter.key} at one cut, then the sign-off"):
        outcome = pool.submit(materialize, "reconciled_quarter", quarter).result()
        story.reconciled = story.note("reconciled_quarter", outcome)
        outcome = pool.submit(materialize, "sign_off", quarter, _APPROVAL).result()
        story.signed = story.note("sign_off", outcome)


def validate_weeks(
    console: Console, migration: Migration, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory
) -> None:
    """Prove every week of the quarter equal at a cut of its own."""
    weeks = migration.calendar.weeks_of(quarter)
    equal = 0
    with console.status("Validating 13 weeks at consistent cuts") as status:
        for week, future in [(week, pool.submit(run_job, "validate_slices", week)) for week in weeks]:
            equal += story.note(f"validated_slice {week.key}", future.result())
            status.update(f"Validating 13 weeks at consistent cuts: {equal} are equal")
    story.validated += equal
    console.print(f"{quarter.key}: {equal} of 13 weeks are proven equal at their cuts, under live traffic.")


def _break_and_mend(
    console: Console, migration: Migration, quarter: FiscalQuarter, pool: ProcessPoolExecutor, story: CdcStory
) -> None:
    week = migration.calendar.weeks_of(quarter)[_DAMAGED_WEEK - 1]
    story.injected = damage(migration, week)
    console.print(f"Fault injected into {week.key} of the base: {story.injected} rows changed or lost behind our back.")
    with console.status(f"Validating {week.key} again, then repairing it"):
        outcome = pool.submit(run_job, "validate_slices", week).result()
        if outcome.success:
            story.failures.append(f"{week.key}: the injected fault was not found")
            return
        story.found = outcome.error.splitlines()[0]
        outcome = pool.submit(run_job, "repair_slices", week, _REPAIR).result()
        story.repaired = story.note(f"repair of {week.key}", outcome)
    console.print(f"Found: {story.found}", highlight=False, markup=False)
    console.print(f"Repaired, and validated again: {'yes' if story.repaired else 'NO'}.")


def damage(migration: Migration, week: FiscalWeek) -> int:
    """Lose one row of the week and change two others, in the base alone, as a person with psql might."""
    spec = migration.spec
    with migration.databases.session("base", "demo fault") as base:
        description = require_table(base, spec.table, "base")
        bounds = migration.calendar.bound_values(week, description.control_kind(spec.control_column))
        rows = base.execute(
            sql.SQL("SELECT id FROM {} WHERE {} ORDER BY id LIMIT 3").format(
                table_name(spec.table), in_range(spec.control_column, bounds)
            )
        ).fetchall()
        if not rows:
            raise MigrationError("the week has no rows to damage", where=week.key, next_step="run it with more rows")
        lost, *changed = [row[0] for row in rows]
        base.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(table_name(spec.table)), [lost])
        base.execute(
            sql.SQL("UPDATE {} SET guests = guests + 1 WHERE id = ANY(%s)").format(table_name(spec.table)), [changed]
        )
    return len(rows)
