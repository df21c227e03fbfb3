"""The demo from its first server to the frozen legacy, as a person types it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.freezes import patience


@pytest.mark.parametrize(
    "until", ["signed-off", *(pytest.param(one, marks=pytest.mark.soak) for one in ("archived", "decommissioned"))]
)
def test_the_demo_tells_its_story_and_writes_what_it_measured(until: str, tmp_path: Path) -> None:
    var = tmp_path / "var"
    servers = EmbeddedServers(var)
    try:
        done = _demo(var, tmp_path, "--rows", "5000", "--rate", "20", "--until", until)
        assert done.returncode == 0, done.stdout + done.stderr
        summary = json.loads((var / "demo" / "summary.json").read_text())
        _require_signed_off(summary, servers)
        assert "Every week was proven equal" in done.stdout
        chapters = ["signed-off", "archived", "decommissioned"]
        assert summary["chapters"] == chapters[: chapters.index(until) + 1]
        if until == "signed-off":
            assert summary["archive"]["weeks_archived"] == 0
        else:
            _require_archived(summary, var / "archive")
        if until == "decommissioned":
            _require_decommissioned(summary, servers)
        else:
            assert summary["cutover"]["runs"] == []
        assert ("the legacy is decommissioned" in done.stdout) == (until == "decommissioned")
    finally:
        servers.remove()


def _demo(var: Path, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIGRATION_")}
    return subprocess.run(
        [sys.executable, "-m", "migration_assets.cli", "demo", *options],
        env={**environment, "MIGRATION_VAR": str(var)}, cwd=folder, capture_output=True, text=True,
        timeout=patience(600), check=False,
    )  # fmt: skip


def _require_signed_off(summary: dict[str, Any], servers: EmbeddedServers) -> None:
    assert summary["success"] is True
    assert summary["failures"] == {}
    assert len(summary["weeks"]) == 13
    assert all(week["equal"] and week["state"] == "signed_off" for week in summary["weeks"])
    assert all(week["legacy_fingerprint"] == week["base_fingerprint"] for week in summary["weeks"])
    with psycopg.connect(servers.base_url()) as base:
        [(rows,)] = base.execute(
            "SELECT count(*) FROM amenity_bookings WHERE booked_at >= '2024-04-01Z' AND booked_at < '2024-07-01Z'"
        ).fetchall()
    assert summary["rows"] == sum(week["rows"] for week in summary["weeks"]) > 1000
    assert summary["traffic"]["transactions"] > 0
    cdc = summary["cdc"]
    assert (cdc["weeks_validated"], cdc["rows_damaged"]) == (13, 3)
    found = re.search(r"\b([01]) missing, 0 extra, ([012]) changed\.", cdc["mismatch_found"])
    assert found, cdc["mismatch_found"]
    # Traffic that writes a damaged row anew, or deletes it, mends it before anybody looks.
    assert int(found[1]) + int(found[2]) > 0
    assert [cdc[step] for step in ("repaired", "reconciled", "signed_off")] == [True] * 3
    assert cdc["final_comparison"]["differing"] == 0
    assert cdc["final_comparison"]["rows"] == rows
    assert cdc["lag_seconds"]["measured"] > 0
    assert summary["evidence"]["holds"] is True
    assert all(Path(pack).is_file() for pack in summary["evidence"]["packs"])


def _require_archived(summary: dict[str, Any], folder: Path) -> None:
    archive = summary["archive"]
    assert archive["opened_by_sensor"] == ["FY25-Q3"]
    assert (archive["weeks_archived"], archive["weeks_retired"], archive["failures"]) == (13, 13, [])
    assert "stale" in archive["late_change_refused"]
    assert archive["cold_answers_equal_legacy"] is True
    assert archive["rows_restored"] > 0
    assert [one["differing"] for one in archive["final_comparisons"].values()] == [0, 0]
    assert len(list(folder.rglob("*.parquet"))) == 13


def _require_decommissioned(summary: dict[str, Any], servers: EmbeddedServers) -> None:
    cutover = summary["cutover"]
    assert [one["kind"] for one in cutover["runs"]] == ["rehearsal", "cutover", "rollback", "cutover"]
    assert all(0 < one["downtime_ms"] < patience(60_000) and one["rows_compared"] > 0 for one in cutover["runs"])
    applications = cutover["applications"]
    assert (applications["switches"], applications["errors"]) == (3, 0)
    assert applications["transactions_on_base"] > 0
    assert [one["differing"] for one in cutover["final_comparisons"].values()] == [0, 0]
    assert (cutover["decommissioned"], cutover["failures"]) == (True, [])
    with psycopg.connect(servers.legacy_url()) as legacy, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        legacy.execute("UPDATE amenity_bookings SET guests = 0")
