"""The demo's last part: the other quarters follow, the applications move to the base, back and again, decommission.

The traffic follows a switch that the cutover's hook sets, as a team's own applications would.
"""

import json
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import sql
from rich.console import Console

from migration_assets.decommission import step as steps
from migration_assets.demo.archive import NEXT
from migration_assets.demo.cdc import CdcStory, FullComparison, approve, compare_everything
from migration_assets.demo.copying import copy_weeks, materialize, run_plain
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import CutoverError, CutoverKind
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sql_text import table_name
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import (
    CutoverRecord,
    cutovers,
    give_code_for,
    preview_rollback,
    writes_held,
)
from migration_assets.runtime import Migration

REST = (FiscalQuarter(2024, 4), FiscalQuarter(2025, 1))
"""The quarters that are still only on the legacy."""
_WHO = {"approved_by": "the demo"}
_FOLLOW_SECONDS = 60.0
_SEEN_THERE = 20


def hook_command(switch: Path) -> str:
    """The demo's MIGRATION_CUTOVER_HOOK_COMMAND, which sets the traffic's switch."""
    words = [sys.executable, "-m", "migration_assets.embedded.switch", str(switch), "{to}"]
    return shlex.join(words).replace("'{to}'", "{to}")


@dataclass
class CutoverStory:
    """What the last part measured; everything else is in the ledger."""

    cdc: CdcStory = field(default_factory=CdcStory)
    copy_failures: dict[str, str] = field(default_factory=dict[str, str])
    signed: list[str] = field(default_factory=list[str])
    records: list[CutoverRecord] = field(default_factory=list[CutoverRecord])
    comparisons: dict[str, FullComparison] = field(default_factory=dict[str, FullComparison])
    decommissioned: bool = False

    @property
    def failures(self) -> list[str]:
        """The errors of all steps that failed."""
        return [*self.copy_failures.values(), *self.cdc.failures]

    @property
    def ready(self) -> bool:
        """Whether every quarter that holds rows is signed off."""
        return len(self.signed) == len(REST) + 1 and not self.failures

    @property
    def in_base(self) -> bool:
        """Whether everything up to the second cutover succeeded, so that the base is in charge."""
        outcomes = [(one.kind, one.rehearse, one.outcome) for one in self.records]
        return not self.failures and outcomes == [
            (CutoverKind.CUTOVER, True, "rehearsed"),
            (CutoverKind.CUTOVER, False, "succeeded"),
            (CutoverKind.ROLLBACK, False, "succeeded"),
            (CutoverKind.CUTOVER, False, "succeeded"),
        ]

    @property
    def succeeded(self) -> bool:
        """Whether every step succeeded."""
        equal = bool(self.comparisons) and not any(one.differing for one in self.comparisons.values())
        return self.in_base and equal and self.decommissioned


def bring_in_rest(console: Console, migration: Migration, pool: ProcessPoolExecutor, story: CutoverStory) -> None:
    """Migrate the remaining quarters and sign them off, and the quarter that has begun: a cutover needs them all."""
    for quarter in REST:
        opened = pool.submit(materialize, "quarter_partitions", quarter).result()
        if not story.cdc.note(f"quarter_partitions {quarter.key}", opened):
            return
        copy_weeks(console, migration, quarter, pool, story.copy_failures)
        if story.copy_failures:
            return
        with console.status(f"{quarter.key} joins the running stream at a cut"):
            joined = pool.submit(materialize, "change_stream", quarter).result()
        if not story.cdc.note(f"change_stream {quarter.key}", joined):
            return
    for quarter in (*REST, NEXT):
        approve(console, quarter, pool, story.cdc)
        if story.cdc.signed:
            story.signed.append(quarter.key)
    console.print(f"Reconciled and signed off as well: {', '.join(story.signed)}.")


@dataclass(frozen=True)
class CutoverTale:
    """Readiness, rehearsal, cutover, rollback and second cutover; after each the traffic is seen where it belongs."""

    console: Console
    migration: Migration
    pool: ProcessPoolExecutor
    story: CutoverStory
    stats_file: Path

    def tell(self) -> None:
        """Tell all of it, up to the first failure, which the story keeps."""
        _ = (
            self._made_ready()
            and self._move("Rehearsal", "legacy", CutoverKind.CUTOVER, rehearse=True)
            and self._move("Cutover", "base", CutoverKind.CUTOVER)
            and self._move("Rollback", "legacy", CutoverKind.ROLLBACK)
            and self._move("Second cutover", "base", CutoverKind.CUTOVER)
        )

    def _made_ready(self) -> bool:
        """Do what a person would: read what blocks, follow the remedy, examine again."""
        with self.console.status("Examining whether everything is ready for a cutover"):
            first = self.pool.submit(materialize, "cutover_readiness", None).result()
            if first.success:
                return True
            self.console.print(f"Readiness, first examination: {first.error}", markup=False)
            with self.migration.databases.session("base", "demo remedy") as base:
                base.execute(sql.SQL("ANALYZE {}").format(table_name(self.migration.spec.table)))
            second = self.pool.submit(materialize, "cutover_readiness", None).result()
        return self.story.cdc.note("cutover_readiness", second)

    def _move(self, name: str, side: str, kind: CutoverKind, *, rehearse: bool = False) -> bool:
        """Run legacy_cutover or the job rollback, then wait for the traffic; whether the run succeeded."""
        with self.console.status(f"{name}: examine, hold the writes, drain, compare, release the writes"):
            config: dict[str, Any] = {**_WHO, "confirm": "" if rehearse else self._code(kind)}
            outcome = (
                self.pool.submit(materialize, "legacy_cutover", None, {**config, "rehearse": rehearse}).result()
                if kind is CutoverKind.CUTOVER
                else self.pool.submit(run_plain, "rollback", {"roll_back_to_legacy": config}).result()
            )
            self.story.records = cutovers(self.migration)
            if not self.story.cdc.note(name, outcome):
                return False
            self._await_traffic(side)
        record = self.story.records[-1]
        self.console.print(
            f"{name}: no side took writes for {record.downtime_ms or 0:,.0f} ms; {record.compared_weeks} weeks,"
            f" {record.compared_rows:,} rows were compared meanwhile and are equal. The traffic writes to the {side}."
        )
        return True

    def _code(self, kind: CutoverKind) -> str:
        """The code that a person would type after the examination; empty if something blocks."""
        if kind is CutoverKind.ROLLBACK:
            preview = preview_rollback(self.migration)
            return preview.confirmation.code if preview is not None else ""
        ready = examine_cutover(self.migration).ready
        return give_code_for(self.migration, kind).code if ready else ""

    def _await_traffic(self, side: str) -> None:
        """Wait until the applications write to that side.

        Raises:
            CutoverError: Their writes do not arrive in time.
        """
        before = self._written(side)
        if not wait_until(lambda: self._written(side) >= before + _SEEN_THERE, seconds=_FOLLOW_SECONDS):
            held = writes_held(self.migration)
            raise CutoverError(
                f"the traffic is not seen on the {side}" + (f": {held.what}" if held else ""),
                where="demo",
                next_step=f"see {self.stats_file}",
            )

    def _written(self, side: str) -> int:
        stats = json.loads(self.stats_file.read_text())
        return int(stats["on_base"] if side == "base" else stats["transactions"] - stats["on_base"])


def compare_rest(migration: Migration, story: CutoverStory) -> None:
    """After the last write has arrived on the legacy: compare the other quarters row by row."""
    for quarter in REST:
        story.comparisons[quarter.key] = compare_everything(migration, quarter)


def decommission(console: Console, migration: Migration, pool: ProcessPoolExecutor, story: CutoverStory) -> None:
    """Decommission the legacy, which has no way back: it accepts no connections and keeps every row."""
    config: dict[str, Any] = {**_WHO, "note": "made-up data on embedded servers", "dry_run": False}
    with console.status("Decommissioning the legacy"):
        plan = steps.decommission(migration, _WHO["approved_by"])
        config["confirm"] = plan.confirmation.code if plan.confirmation is not None else ""
        outcome = pool.submit(materialize, "decommissioned_legacy", None, config).result()
        story.decommissioned = story.cdc.note("decommissioned_legacy", outcome)
    if story.decommissioned:
        console.print("The legacy is decommissioned: applications cannot connect, nobody can write, every row is kept.")
