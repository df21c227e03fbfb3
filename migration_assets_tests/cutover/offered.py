"""A signed-off quarter, and the cutover as people are offered it: Dagster's runs, and the command line."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
from psycopg import errors, sql

from migration_assets.definitions import build_defs
from migration_assets.domain.states import CutoverState, SideName
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.readiness.step import (
    CutoverRecord,
    cutovers,
    release_writes,
    roll_back,
    side_in_charge,
    writes_held,
)
from migration_assets.runtime import Migration, open_migration
from migration_assets_tests.clones import Clones
from migration_assets_tests.confirmed_deeds import code_for_cutover, code_for_rollback
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import QUARTER, wait_for
from migration_assets_tests.terminal.live_quarter import LiveQuarter, live_quarter

ASSET = "legacy_cutover"
# While the trigger stands, a cutover that enters this state waits there, in a statement of its own.
_FUNCTION = """
CREATE OR REPLACE FUNCTION public.stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(20261122);
    FOR n IN 1..400 LOOP
        EXIT WHEN EXISTS (SELECT FROM pg_class WHERE relname = 'go_on');
        PERFORM pg_sleep(0.05);
    END LOOP;
    RETURN NEW;
END $$
"""
_TRIGGER = """
CREATE TRIGGER stay BEFORE UPDATE ON migration.cutovers FOR EACH ROW
WHEN (NEW.state = {state} AND OLD.state <> {state}) EXECUTE FUNCTION public.stay()
"""
_LEAVE = "DROP TRIGGER IF EXISTS stay ON migration.cutovers"
_STAYS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (classid, objid) = (0, 20261122)
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True)
class Offered:
    """One quarter of public.bookings."""

    quarter: LiveQuarter
    instance: dg.DagsterInstance

    @property
    def migration(self) -> Migration:
        return self.quarter.migration

    @property
    def ground(self) -> CutoverGround:
        return CutoverGround(self.quarter.ground.databases)

    def under(self, **settings: object) -> "Offered":
        """The same under other settings."""
        changed = self.migration.settings.model_copy(update=settings)
        return replace(self, quarter=replace(self.quarter, migration=open_migration(changed)))

    @property
    def records(self) -> list[CutoverRecord]:
        return cutovers(self.migration)

    @property
    def charge(self) -> SideName:
        return side_in_charge(self.migration)

    @property
    def for_real(self) -> list[str]:
        """The words of a cutover, with a code."""
        return ["cutover", "--approved-by", "Ada", "--for-real", "--confirm", code_for_cutover(self.migration)]

    def mended(self) -> "Offered":
        self.ground.run("base", _LEAVE)
        release_writes(self.migration)
        if self.charge == "base":
            roll_back(self.migration, "a test", confirm=code_for_rollback(self.migration))
        return self

    def accepts(self, side: SideName) -> bool:
        try:
            self.ground.run(side, "UPDATE bookings SET guests = guests WHERE id = 5")
        except errors.ReadOnlySqlTransaction:
            return False
        return True

    def require_as_before(self) -> None:
        """The legacy is in charge, accepts writes, and the base follows."""
        assert self.charge == "legacy"
        assert writes_held(self.migration) is None
        assert self.accepts("legacy")
        self.ground.assert_same()

    def cut(self, tags: dict[str, str] | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        """A run of legacy_cutover with its checks; for real with the code of whoever found everything ready."""
        if config.get("rehearse") is False and "confirm" not in config:
            config["confirm"] = code_for_cutover(self.migration)
        job = build_defs(self.migration).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            asset_selection=[dg.AssetKey(ASSET)],
            instance=self.instance,
            raise_on_error=False,
            tags=tags,
            run_config={"ops": {ASSET: {"config": {"approved_by": "Ada", **config}}}},
        )

    def back(self, tags: dict[str, str] | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        """A run of the job rollback, with the code of whoever looked at it."""
        if "confirm" not in config:
            config["confirm"] = code_for_rollback(self.migration)
        job = build_defs(self.migration).resolve_job_def("rollback")
        return job.execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            tags=tags,
            run_config={"ops": {"roll_back_to_legacy": {"config": {"approved_by": "Ada", **config}}}},
        )

    def repair_legacy(self, *weeks: str, **config: Any) -> dg.ExecuteInProcessResult:
        """A run of the job repair_legacy."""
        job = build_defs(self.migration).resolve_job_def("repair_legacy")
        return job.execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            run_config={"ops": {"repair_legacy_slices": {"config": {"weeks": list(weeks), **config}}}},
        )

    def check(self, name: str) -> dg.AssetCheckEvaluation:
        """One check alone."""
        key = dg.AssetCheckKey(dg.AssetKey(ASSET), name)
        alone = dg.define_asset_job("alone", selection=dg.AssetSelection.checks(key))  # pyright: ignore[reportUnknownMemberType]
        job = dg.Definitions.merge(build_defs(self.migration), dg.Definitions(jobs=[alone])).resolve_job_def("alone")
        [evaluation] = job.execute_in_process(instance=self.instance).get_asset_check_evaluations()
        return evaluation

    @contextmanager
    def staying(self, state: CutoverState) -> Generator[None]:
        """A cutover stands still when it enters the state, until it may go on, or its statement is cancelled."""
        with psycopg.connect(self.ground.databases.base_url, autocommit=True) as base:
            base.execute(_FUNCTION)
            base.execute(sql.SQL(_TRIGGER).format(state=sql.Literal(state)))
        try:
            yield
        finally:
            self.ground.run("base", _LEAVE, "DROP TABLE IF EXISTS public.go_on")

    def go_on(self) -> None:
        self.ground.run("base", "CREATE TABLE public.go_on ()")

    def stays(self) -> bool:
        return bool(self.ground.one("base", _STAYS))

    def until_it_stays(self) -> None:
        wait_for(self.stays, "the cutover stands still", seconds=60)

    @contextmanager
    def typed(
        self, folder: Path, *words: str, output: int = subprocess.PIPE, **environment: str
    ) -> Generator["subprocess.Popen[str]"]:
        """The command line in a process of its own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MIGRATION_", "DAGSTER_"))}
        command = [str(Path(sys.executable).with_name("migration-assets")), *words]
        with subprocess.Popen(
            command, cwd=folder, env={**inherited, **self.quarter.environment, **environment},
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def offered(clones: Clones) -> Generator[Offered]:
    with live_quarter(clones) as quarter, dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        quarter.ground.reconcile()
        sign_off_quarter(quarter.migration, QUARTER, "Ada")
        quarter.ground.run("base", "ANALYZE bookings")
        yield Offered(quarter, instance)
