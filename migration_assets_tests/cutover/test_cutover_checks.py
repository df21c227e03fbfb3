"""The checks of legacy_cutover, each run alone, each seen green and red."""

from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from migration_assets.domain.states import CutoverState
from migration_assets.readiness.step import ReverseHealth, reverse_problems
from migration_assets_tests.cutover.offered import Offered
from migration_assets_tests.ground import wait_for

NOWHERE = SecretStr("postgresql://migrator:open-sesame@127.0.0.1:1/nowhere")


def alter(ready: Offered, how: LiteralString) -> None:
    """Somebody meddles with the reverse subscription."""
    with psycopg.connect(ready.ground.databases.legacy_url, autocommit=True) as legacy:
        row = legacy.execute(
            "SELECT subname FROM pg_subscription WHERE subdbid ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        assert row is not None
        legacy.execute(sql.SQL("ALTER SUBSCRIPTION {} ").format(sql.Identifier(row[0])) + sql.SQL(how))


@pytest.mark.long
def test_writes_are_accepted_is_red_only_where_the_process_that_holds_them_died(ready: Offered, tmp_path: Path) -> None:
    assert ready.check("writes_are_accepted").passed
    with (
        ready.staying(CutoverState.DRAINED),
        ready.typed(tmp_path, *ready.for_real) as process,
    ):
        ready.until_it_stays()
        assert not ready.accepts("legacy")
        living = ready.check("writes_are_accepted")
        assert living.passed, living.description
        assert "a cutover or rollback is at work" in (living.description or "")
        early = ready.quarter.run("release-writes")
        assert early.exit_code == 2, early.output
        assert "the cutover is being worked on" in early.output
        assert not ready.accepts("legacy"), "a living one is not released under its feet"
        process.kill()
        process.wait()
        wait_for(lambda: not ready.check("writes_are_accepted").passed, "its sessions end")
        dead = ready.check("writes_are_accepted")
        assert "the process of cutover 1 died" in (dead.description or "")
        assert "`migration-assets release-writes`" in (dead.description or "")
        assert dead.metadata["side"].value == "legacy"
        listed = ready.quarter.run("cutovers")
        assert "the legacy refuses writes since" in listed.output
    released = ready.quarter.run("release-writes")
    assert released.exit_code == 0, released.output
    assert "was undone: the legacy accepts writes" in released.output
    assert ready.check("writes_are_accepted").passed
    ready.require_as_before()
    assert "the legacy accepts writes" in ready.quarter.run("release-writes").output


@pytest.mark.long
def test_the_reverse_stream_is_looked_at_while_the_base_is_in_charge(ready: Offered) -> None:
    before = ready.check("reverse_stream_is_healthy")
    assert before.passed
    assert "The legacy is in charge" in (before.description or "")
    assert ready.cut(rehearse=False).success
    healthy = ready.check("reverse_stream_is_healthy")
    assert healthy.passed, healthy.description
    assert isinstance(healthy.metadata["retained_wal_bytes"].value, int)

    alter(ready, "DISABLE")
    quick = ready.under(cutover_lag_seconds=1.0)
    ill = quick.check("reverse_stream_is_healthy")
    assert not ill.passed
    assert "disabled" in (ill.description or "")
    assert "did not arrive on the legacy within 1 s" in (ill.description or "")
    preview = ready.quarter.run("rollback", MIGRATION_CUTOVER_LAG_SECONDS="1")
    assert preview.exit_code == 1, preview.output
    assert "In the way: the reverse subscription on the legacy is disabled" in preview.output
    alter(ready, "ENABLE")
    wait_for(lambda: ready.check("reverse_stream_is_healthy").passed, "it runs again")


@pytest.mark.parametrize(
    ("check", "side"),
    [
        ("writes_are_accepted", "legacy_url"),
        ("reverse_stream_is_healthy", "legacy_url"),
        ("reverse_stream_is_healthy", "base_url"),
    ],
)
def test_what_cannot_be_seen_is_not_taken_for_well(ready: Offered, check: str, side: str) -> None:
    evaluation = ready.under(**{side: NOWHERE}).check(check)
    assert not evaluation.passed
    assert "It cannot be checked now" in (evaluation.description or "")
    assert "open-sesame" not in (evaluation.description or "")


def test_a_legacy_that_accepts_writes_is_well_though_the_base_is_away(ready: Offered) -> None:
    evaluation = ready.under(base_url=NOWHERE).check("writes_are_accepted")
    assert evaluation.passed
    assert "The legacy accepts writes; the base cannot be reached" in (evaluation.description or "")
    assert "open-sesame" not in (evaluation.description or "")


@pytest.mark.parametrize(
    ("health", "problems"),
    [
        (ReverseHealth(True, True, True, 5, "reserved"), []),
        (ReverseHealth(True, True, True, 5, "extended"), []),
        (ReverseHealth(False, False, True, 5, "reserved"), ["is disabled or gone"]),
        (ReverseHealth(True, False, False, 5, "reserved"), ["has no worker", "did not arrive"]),
        (ReverseHealth(True, True, True, None, None), ["slot on the base is gone"]),
        (ReverseHealth(True, True, True, 5, "lost"), ["is lost"]),
        (ReverseHealth(True, True, True, 5, "unreserved"), ["is unreserved"]),
    ],
)
def test_whatever_stops_a_rollback_is_said(ready: Offered, health: ReverseHealth, problems: list[str]) -> None:
    found = reverse_problems(ready.migration, health)
    assert len(found) == len(problems)
    for text, what in zip(found, problems, strict=True):
        assert what in text
    assert health.healthy is (not found) or "has no worker" in found[0]
