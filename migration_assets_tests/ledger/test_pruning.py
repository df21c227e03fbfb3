"""What is only of use for a while goes by its age, and what a gate, a proof or somebody at work needs never does."""

from collections.abc import Generator

import pytest

from migration_assets.domain.errors import LedgerError
from migration_assets.ledger.schema import prune_ledger
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import SPEC, Ground

_IMAGES = "SELECT count(*) FROM migration.repaired_rows"


@pytest.fixture
def repaired(clones: Clones) -> Generator[tuple[Ground, int]]:
    """In W01 three rows had been lost; they were put back by a repair."""
    with clones.streamed(91) as databases:
        ground = Ground(databases)
        ground.run("base", "DELETE FROM bookings WHERE id IN (1, 2, 3)")
        done = ground.repair()
        assert done.repair_id is not None
        yield ground, done.repair_id


def prune(ground: Ground) -> None:
    with ground.databases.session("base", "test") as base:
        prune_ledger(base, SPEC.relation, record_days=30, image_days=60)


def test_rows_of_before_a_repair_go_by_their_age_and_then_it_is_not_taken_back(repaired: tuple[Ground, int]) -> None:
    ground, repair_id = repaired
    ground.run("base", "UPDATE migration.repairs SET repaired_at = clock_timestamp() - interval '59 days'")
    prune(ground)
    assert ground.one("base", _IMAGES) == 3
    ground.run("base", "UPDATE migration.repairs SET repaired_at = clock_timestamp() - interval '61 days'")
    with ground.databases.session("base", "taken back") as base, base.transaction():
        base.execute("SELECT FROM migration.repairs WHERE id = %s FOR UPDATE", [repair_id])
        prune(ground)
        assert ground.one("base", _IMAGES) == 3, "somebody takes it back at this moment"
    prune(ground)
    assert ground.one("base", _IMAGES) == 0
    with pytest.raises(LedgerError, match=rf"the row images of repair {repair_id} were removed at .*REPAIR_IMAGE_DAYS"):
        ground.undo(repair_id)
    ground.assert_same()
    assert ground.one("base", "SELECT missing FROM migration.repairs") == 3, "that it was done stays known"


def test_the_last_of_each_kind_stays_however_old_it_is(repaired: tuple[Ground, int]) -> None:
    ground, _ = repaired
    ground.run(
        "base",
        "INSERT INTO migration.attempts (relation, quarter, week, action)"
        " VALUES ('public.bookings', 'FY25-Q2', 'W01', 'copy')",
        "INSERT INTO migration.preflights (relation, blocking, warnings, findings)"
        " SELECT 'public.bookings', 0, n, '[]' FROM generate_series(1, 3) n",
        "INSERT INTO migration.alerts (relation, code, severity, what, next_step, since, seen_at, cleared_at)"
        " SELECT 'public.bookings', 'c' || n, 'warning', 'w', 'n', now(), now(),"
        "  CASE n WHEN 1 THEN now() WHEN 2 THEN now() - interval '40 days' END FROM generate_series(1, 3) n",
        "UPDATE migration.attempts SET started_at = started_at - interval '40 days'",
        "UPDATE migration.preflights SET taken_at = taken_at - interval '40 days'",
        "UPDATE migration.alerts SET since = since - interval '40 days'",
    )
    weeks = ground.one("base", "SELECT count(DISTINCT week) FROM migration.attempts")
    prune(ground)
    kept = ground.ask("base", "SELECT week, action, outcome FROM migration.attempts ORDER BY week, id")
    assert kept[0] == ("W01", "copy", "running")
    assert len(kept) == weeks
    assert ground.ask("base", "SELECT warnings FROM migration.preflights") == [(3,)]
    assert ground.ask("base", "SELECT code FROM migration.alerts ORDER BY code") == [("c1",), ("c3",)]
