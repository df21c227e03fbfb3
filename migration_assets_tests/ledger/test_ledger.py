"""The ledger is made once, refuses what it does not know, and tells dead attempts from living ones."""

import psycopg
import pytest

from migration_assets.domain.errors import LedgerError
from migration_assets.ledger.schema import ensure_ledger, require_ledger
from migration_assets.ledger.slices import (
    begin_attempt,
    end_attempt,
    read_slice,
    read_slices,
    slice_lock,
)
from migration_assets_tests.ground import QUARTER, SPEC, Ground, at_once, attempt_of, week


def _ensure(ground: Ground) -> int:
    with ground.databases.session("base", "test") as base:
        return ensure_ledger(base)


@pytest.fixture
def opened(ground: Ground) -> Ground:
    ground.fill(91).open()
    return ground


def test_making_the_ledger_twice_changes_nothing(ground: Ground) -> None:
    version = _ensure(ground)
    relations = "SELECT oid::bigint, relname, xmin::text FROM pg_class WHERE relnamespace = 'migration'::regnamespace"
    before = ground.ask("base", relations + " ORDER BY 1")
    assert _ensure(ground) == version
    assert ground.ask("base", relations + " ORDER BY 1") == before
    assert ground.ask("base", "SELECT version FROM migration.schema_versions ORDER BY 1") == [
        (number,) for number in range(1, version + 1)
    ]


def test_four_that_make_the_ledger_at_once_make_it_once(ground: Ground) -> None:
    results = at_once([lambda: _ensure(ground)] * 4)
    assert len({str(result) for result in results}) == 1, results
    assert isinstance(results[0], int)


def test_a_ledger_of_a_newer_version_is_not_touched(ground: Ground) -> None:
    version = _ensure(ground)
    ground.ask("base", "INSERT INTO migration.schema_versions (version) VALUES (%s) RETURNING 1", version + 1)
    with pytest.raises(LedgerError, match=f"version {version + 1}"):
        _ensure(ground)


def test_who_only_looks_makes_and_upgrades_nothing(ground: Ground) -> None:
    with ground.databases.session("base", "test") as base, pytest.raises(LedgerError, match="no ledger yet"):
        require_ledger(base)
    assert ground.one("base", "SELECT to_regnamespace('migration') IS NULL")
    version = _ensure(ground)
    with ground.databases.session("base", "test") as base:
        require_ledger(base)
        base.execute("DELETE FROM migration.schema_versions WHERE version = %s", [version])
        older = f"version {version - 1}, and this program reads version {version}"
        with pytest.raises(LedgerError, match=older) as caught:
            require_ledger(base)
        assert "ledger upgrade" in caught.value.next_step
        base.execute("INSERT INTO migration.schema_versions VALUES (%s), (%s)", [version, version + 1])
        with pytest.raises(LedgerError, match=f"this program knows {version}"):
            require_ledger(base)


def test_a_role_that_may_not_create_can_use_a_ledger_that_is_there(ground: Ground) -> None:
    version = _ensure(ground)
    with ground.databases.session("base", "test") as base, base.transaction(force_rollback=True):
        base.execute("CREATE ROLE weak_reader")
        base.execute("GRANT USAGE ON SCHEMA migration TO weak_reader")
        base.execute("GRANT SELECT ON ALL TABLES IN SCHEMA migration TO weak_reader")
        base.execute("SET LOCAL ROLE weak_reader")
        assert ensure_ledger(base) == version


_IMPOSSIBLE = {
    "unknown state": "UPDATE migration.slices SET state = 'lost'",
    "copied without evidence": "UPDATE migration.slices SET state = 'copied'",
    "week": "UPDATE migration.slices SET week = 'W14'",
    "quarter": "UPDATE migration.slices SET quarter = 'FY25-Q5'",
    "action": "UPDATE migration.attempts SET action = 'guess'",
    "outcome": "UPDATE migration.attempts SET outcome = 'fine'",
}


def test_the_ledger_refuses_what_cannot_be(opened: Ground) -> None:
    with opened.databases.session("base", "test") as base:
        begin_attempt(base, opened.record(1), "copy", None)
        for change in _IMPOSSIBLE.values():
            with pytest.raises(psycopg.errors.CheckViolation):
                base.execute(change.encode())


def test_an_attempt_of_a_dead_process_shows_as_interrupted_and_is_closed_by_the_next(opened: Ground) -> None:
    with opened.databases.session("base", "first") as base, slice_lock(base, opened.record(1)):
        begin_attempt(base, opened.record(1), "copy", "run-1")
        alive = opened.record(1)
        assert (alive.working, attempt_of(alive).outcome) == (True, "running")
    dead = opened.record(1)
    assert (dead.working, attempt_of(dead).outcome) == (False, "interrupted")
    assert opened.attempts(1) == [("copy", "running")]
    with opened.databases.session("base", "second") as base:
        begin_attempt(base, opened.record(1), "copy", "run-2")
        begin_attempt(base, opened.record(2), "copy", "run-2")
    assert opened.attempts(1) == [("copy", "interrupted"), ("copy", "running")]
    assert opened.attempts(2) == [("copy", "running")]


def test_the_first_outcome_of_an_attempt_stands(opened: Ground) -> None:
    with opened.databases.session("base", "test") as base:
        attempt = begin_attempt(base, opened.record(1), "copy", None)
        end_attempt(base, attempt, "succeeded")
        end_attempt(base, attempt, "failed", error="the connection broke after the commit")
    assert opened.attempts(1) == [("copy", "succeeded")]
    assert attempt_of(opened.record(1)).error is None


def test_slices_are_read_by_table_quarter_and_week(opened: Ground) -> None:
    opened.open(QUARTER.next)
    with opened.databases.session("base", "test") as base:
        assert [record.week for record in read_slices(base, SPEC.relation, QUARTER)] == [week(n) for n in range(1, 14)]
        assert len(read_slices(base, SPEC.relation)) == 26
        assert read_slices(base, "public.other") == []
        assert read_slice(base, SPEC.relation, week(1).previous) is None
