"""The whole way as people are offered it: the command line, the asset, and the program after the legacy is gone."""

import os
from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import Result
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week
from migration_assets.decommission.step import decommission
from migration_assets.definitions import build_defs
from migration_assets.defs.cutover import DecommissionScope
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.samples import Severity
from migration_assets.evidence.writing import verify_evidence, write_packs
from migration_assets.postgres.sessions import Databases
from migration_assets.readiness.step import cut_over
from migration_assets.runtime import Migration
from migration_assets.watch.legacy_reads import note_legacy_reads
from migration_assets.watch.watching import watch_stream
from migration_assets_tests.clones import Clones
from migration_assets_tests.confirmed_deeds import code_for_cutover, code_for_rollback, code_in, let_leave
from migration_assets_tests.cutover.offered import Offered, offered
from migration_assets_tests.defs.conftest import failure_text
from migration_assets_tests.ground import QUARTER

_ASSET = "decommissioned_legacy"
_NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
_W01, _W02 = FiscalWeek(QUARTER, 1), FiscalWeek(QUARTER, 2)


@dataclass(frozen=True)
class Scene:
    """A quarter whose first week has left the base, and a folder of archives."""

    made: Offered
    environment: dict[str, str]
    archive: Path

    @property
    def migration(self) -> Migration:
        return self.made.migration

    def patient(self) -> Migration:
        """Without windows: what is looked at is something else."""
        return self._under(rollback_window_days=0.0, legacy_quiet_days=0.0)

    def _under(self, **settings: object) -> Migration:
        return replace(self.migration, settings=self.migration.settings.model_copy(update=settings))

    def type(self, line: str, **environment: str) -> Result:
        return self.made.quarter.run(*line.split(" "), **{**self.environment, **environment})

    def obstacles(self) -> dict[str, str]:
        return {one.code: str(one) for one in decommission(self.patient(), "Ada").obstacles}

    def run(self, migration: Migration, **config: Any) -> dg.ExecuteInProcessResult:
        if config.get("dry_run") is False and "confirm" not in config:
            scope = config.get("scope", "AUTOMATIC").lower()
            looked = decommission(migration, "Ada", scope=None if scope == "automatic" else scope)
            config["confirm"] = looked.confirmation.code if looked.confirmation is not None else ""
        job = build_defs(migration).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            asset_selection=[dg.AssetKey(_ASSET)], instance=self.made.instance, raise_on_error=False,
            run_config={"ops": {_ASSET: {"config": {"approved_by": "Ada", **config}}}},
        )  # fmt: skip


@pytest.fixture
def scene(clones: Clones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Scene]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    later = datetime(2024, 11, 1, tzinfo=UTC)
    with offered(clones) as plain:
        settings = {"var": tmp_path / "var", "archive_url": SecretStr(str(tmp_path / "archive")), "as_of": later,
                    "retention_quarters": 1}  # fmt: skip
        made = plain.under(**settings)
        for week in (_W01, _W02):
            archive_week(made.migration, week)
        assert not let_leave(made.migration, _W01).obstacles
        made.ground.run("base", "ANALYZE bookings")
        environment = {"MIGRATION_VAR": str(tmp_path / "var"), "MIGRATION_ARCHIVE_URL": str(tmp_path / "archive"),
                       "MIGRATION_AS_OF": later.isoformat(), "MIGRATION_RETENTION_QUARTERS": "1"}  # fmt: skip
        yield Scene(made, environment, tmp_path / "archive")


@pytest.mark.long
def test_from_every_obstacle_to_a_legacy_that_is_gone(scene: Scene) -> None:
    early = scene.type("decommission")
    assert early.exit_code == 1, early.output
    for text in ("nobody approved it", "the legacy is in charge", "no evidence pack of the whole migration was ever"):
        assert text in early.output, text
    write_packs(scene.migration)
    ready = scene.migration
    then = replace(ready, settings=ready.settings.model_copy(update={"as_of": scene.made.quarter.migration.now()}))
    cut_over(then, "Ada", rehearse=False, confirm=code_for_cutover(then))
    scene.made.ground.insert("base")

    waits = scene.type("decommission --approved-by Ada")
    assert waits.exit_code == 1, waits.output
    for text in ("14 days", "14.0 days are left", "are watched only since",
                 "pack of the whole migration was written since",
                 "Remedy: `migration-assets evidence write`", "Nothing was changed",
                 "scope database (nothing else"):  # fmt: skip
        assert text in waits.output, text
    refused = scene.type("decommission --approved-by Ada --yes")
    assert refused.exit_code == 2, refused.output
    assert "State left: nothing was changed; a rollback is possible as before" in refused.stderr

    assert scene.obstacles().keys() == {"pack"}
    write_packs(scene.migration)
    assert scene.obstacles() == {}
    _evidence_that_was_touched(scene)
    _archives_that_were_touched(scene)

    free = {"MIGRATION_ROLLBACK_WINDOW_DAYS": "0", "MIGRATION_LEGACY_QUIET_DAYS": "0"}
    may = scene.type("decommission --approved-by Ada", **free)
    assert may.exit_code == 0, may.output
    for text in ("read the archives of 1 retired weeks again", "refuse every rollback", "revoke CONNECT on database",
                 "--yes does it, and there is no way back"):  # fmt: skip
        assert text in may.output, text

    looked = scene.run(scene.patient(), scope=DecommissionScope.TABLE.name)
    assert looked.success
    assert not [event for event in looked.all_events if event.is_step_materialization]
    [seen] = [
        event.asset_observation_data.asset_observation for event in looked.all_events if event.is_asset_observation
    ]
    assert seen.description == "nothing stands in the way"
    assert scene.type("cutovers", **free).exit_code == 0
    _codes_that_are_not_good(scene, code_in(str(seen.metadata["confirm"].value)))

    done = scene.run(scene.patient(), dry_run=False, note="signed on paper", scope=DecommissionScope.DATABASE.name)
    assert done.success, done.all_events[-1]
    [event] = [event for event in done.all_events if event.is_step_materialization]
    metadata = event.materialization.metadata
    table = metadata["final_fingerprints"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["week"] for record in table.records][-2:] == ["outside every week", "total"]
    assert len(table.records) == 15
    assert metadata["dagster/row_count"].value == 365
    assert "ALTER DATABASE" in str(metadata["to_open_it_again"].value)
    _afterwards(scene)


def _codes_that_are_not_good(scene: Scene, of_the_table: str) -> None:
    scope = DecommissionScope.DATABASE.name
    for code, why in (
        ("", "it asks for a confirmation code, and none was given"),
        (of_the_table, "this confirmation code was given for: decommission of the table"),
        (code_for_rollback(scene.migration), "this confirmation code was given for: rollback"),
    ):
        text = failure_text(scene.run(scene.patient(), dry_run=False, scope=scope, confirm=code))
        assert why in text, text
        assert "Next: `migration-assets decommission --approved-by NAME` gives one" in text
        assert decommission(scene.patient(), "Ada").record is None, "nothing was touched"


def _evidence_that_was_touched(scene: Scene) -> None:
    scene.made.ground.run("base", "UPDATE migration.sign_offs SET approved_by = 'Eve'")
    assert "the evidence does not hold" in scene.obstacles()["evidence"]
    scene.made.ground.run("base", "UPDATE migration.sign_offs SET approved_by = 'Ada'")
    assert scene.obstacles() == {}


def _archives_that_were_touched(scene: Scene) -> None:
    """The week that has left is read again; of one that is in the base it is enough that nobody knows of damage."""
    [file] = [path for path in scene.archive.rglob("*.parquet") if "W01" in str(path)]
    [other] = [path for path in scene.archive.rglob("*.parquet") if "W02" in str(path)]
    whole, also = file.read_bytes(), other.read_bytes()
    other.write_bytes(also[:-40] + b"?" + also[-39:])
    file.write_bytes(whole[:-40] + b"?" + whole[-39:])
    assert scene.obstacles() == {}, "a dry run does not read them"
    failed = scene.run(scene.patient(), dry_run=False)
    assert not failed.success
    assert decommission(scene.patient(), "Ada").record is None, "nothing was touched"
    known = scene.obstacles()
    assert known.keys() == {"archives"}
    assert "FY25-Q2|W01 was found damaged" in known["archives"]
    file.write_bytes(whole)
    assert scene.type("archive FY25-Q2 W01 --reread").exit_code == 0
    assert scene.type("archive FY25-Q2 W02 --reread").exit_code != 0
    assert "FY25-Q2|W02 was found damaged" in scene.obstacles()["archives"]
    other.write_bytes(also)
    assert scene.type("archive FY25-Q2 W02 --reread").exit_code == 0
    assert scene.obstacles() == {}
    write_packs(scene.migration)


def _afterwards(scene: Scene) -> None:
    gone = {"MIGRATION_LEGACY_URL": _NOWHERE}
    for environment in ({}, gone):
        told = scene.type("decommission", **environment)
        assert told.exit_code == 0, told.output
        assert "is decommissioned (database), approved by Ada" in told.output
        assert "GRANT CONNECT ON DATABASE" in told.output
        back = scene.type("rollback --approved-by Ada --yes", **environment)
        assert back.exit_code != 0
        assert "there is no way back" in back.output + back.stderr
        again = scene.type("cutover --approved-by Ada --for-real", **environment)
        assert again.exit_code != 0
        assert scene.type("evidence verify", **environment).exit_code == 0
        assert scene.type("evidence write", **environment).exit_code == 0
        for line in ("status", "cutovers", "stream status"):
            result = scene.type(line, **environment)
            assert result.exception is None or isinstance(result.exception, SystemExit), line
    watched = watch_stream(scene.migration)
    assert [one for one in watched.problems if one.severity is Severity.CRITICAL] == [], "closed, and still there"
    away = replace(scene.migration, databases=Databases(_NOWHERE, scene.migration.databases.base_url))
    assert note_legacy_reads(away) is None
    assert verify_evidence(away).holds
    watched = watch_stream(away)
    assert [one for one in watched.problems if one.severity is Severity.CRITICAL] == []
