"""A week comes back from its way out: at any step, with every row, without a scan, and under CDC again when asked."""

from collections.abc import Generator
from typing import Any

import psycopg
import pytest

from migration_assets.domain.errors import PartitionError, RestoreError, RetirementError
from migration_assets.domain.states import SliceState
from migration_assets.ledger.retirements import Step
from migration_assets.retirement import leaving
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import wait_for
from migration_assets_tests.retirement.signed_off_quarter import GRACE, NOW, Departure, leaf

_MADE_OF = """
SELECT pg_get_expr(c.relpartbound, c.oid), i.inhparent::regclass::text,
       (SELECT array_agg((x.indexrelid::regclass::text, k.relispartition)::text ORDER BY k.relname) FROM pg_index x
        JOIN pg_class k ON k.oid = x.indexrelid WHERE x.indrelid = c.oid),
       (SELECT array_agg((conname, contype, conislocal, coninhcount, pg_get_constraintdef(oid))::text ORDER BY conname)
        FROM pg_constraint WHERE conrelid = c.oid),
       (SELECT array_agg((attname, attidentity, attnotnull, atthasdef)::text ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0), c.oid, c.relfilenode
FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.oid = to_regclass(%s)
"""


@pytest.fixture
def departure(clones: Clones) -> Generator[Departure]:
    with Departure.copied(clones, 5, 6) as departure:
        yield departure


def _made_of(departure: Departure) -> list[tuple[Any, ...]]:
    return departure.ground.ask("base", _MADE_OF, f"public.{leaf(5)}")


@pytest.mark.long
def test_a_week_in_quarantine_comes_back_as_the_very_leaf_that_it_was(departure: Departure) -> None:
    before, rows = _made_of(departure), departure.ground.contents("base", 5)
    departure.retire()
    done = departure.give_back()
    assert (done.equal, done.fingerprint) == (True, departure.archived().native)
    assert _made_of(departure) == before
    assert departure.ground.contents("base", 5) == rows
    record, retirement = departure.ground.record(5), departure.retirement()
    assert (record.state, record.under_cdc) == (SliceState.ARCHIVED, False)
    assert retirement
    assert (retirement.step, retirement.returned_at) == (Step.RETURNED, NOW)
    noted = departure.ground.ask("base", "SELECT kind, rows, equal, restored_at FROM migration.restores")
    assert noted == [("return", 70, True, NOW)]
    assert departure.ground.attempts(5)[-1] == ("restore", "succeeded")


def test_attaching_again_reads_no_row(departure: Departure) -> None:
    departure.retire()
    url = departure.ground.databases.base_url
    with psycopg.connect(url, autocommit=True) as base:
        told: list[str] = []
        base.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        base.execute("SET client_min_messages = debug1")
        with base.transaction():
            base.execute("ALTER TABLE migration_quarantine.bookings_fy25_q2_w05 SET SCHEMA public")
            base.execute(
                "ALTER TABLE bookings_fy25_q2 ATTACH PARTITION bookings_fy25_q2_w05"
                " FOR VALUES FROM ('2024-04-29 00:00+00') TO ('2024-05-06 00:00+00')"
            )
            raise psycopg.Rollback
    assert any("is implied by existing constraints" in text for text in told), told
    assert departure.give_back().equal


def test_a_week_that_came_back_follows_the_legacy_again_and_may_leave_again(departure: Departure) -> None:
    departure.retire()
    departure.book(9001)
    departure.ground.run("legacy", "DELETE FROM bookings WHERE id = 28")
    departure.give_back()
    departure.take_in()
    departure.ground.assert_same()
    assert departure.covered()
    departure.archive()
    assert departure.retire().step is Step.QUARANTINED
    assert len(departure.in_quarantine()) == 71


def test_a_detach_that_waits_for_a_reader_is_taken_back(departure: Departure) -> None:
    with psycopg.connect(departure.ground.databases.base_url) as reader:
        reader.execute("SELECT count(*) FROM bookings")
        with pytest.raises(RetirementError):
            departure.impatient(0.3).retire()
        with pytest.raises(RetirementError, match="In the way"):
            departure.impatient(0.3).give_back()
        reader.rollback()
    assert departure.give_back().equal
    assert len(departure.ground.contents("base", 5)) == 70
    assert departure.state() is SliceState.ARCHIVED


@pytest.mark.parametrize("where", ["attached", "loose"])
def test_whatever_half_of_a_detach_was_done_is_taken_back(
    departure: Departure, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(leaving, "detach_leaf" if where == "attached" else "move_to_quarantine", die)
        with pytest.raises(KeyboardInterrupt):
            departure.retire()
    assert departure.state() is SliceState.RETIRED
    assert departure.give_back().equal
    assert len(departure.ground.contents("base", 5)) == 70
    assert departure.ground.record(5).state is SliceState.ARCHIVED


def test_what_was_changed_in_quarantine_does_not_come_back_as_if_it_were_the_week(departure: Departure) -> None:
    departure.retire()
    departure.ground.run("base", "UPDATE migration_quarantine.bookings_fy25_q2_w05 SET note = 'x' WHERE id = 28")
    with pytest.raises(RestoreError, match=r"as many rows .* but other values than the archive"):
        departure.give_back()
    assert departure.state() is SliceState.RETIRED
    assert len(departure.in_quarantine()) == 70


def test_a_dropped_week_and_one_that_never_left_are_not_returned(departure: Departure) -> None:
    with pytest.raises(RestoreError, match="it is archived, in the root"):
        departure.give_back()
    departure.retire()
    departure.retire(now=NOW + GRACE)
    with pytest.raises(RestoreError, match="it was dropped") as caught:
        departure.give_back()
    assert "restored_slice" in str(caught.value)


def test_an_index_that_the_root_has_got_since_is_not_built_under_the_lock(departure: Departure) -> None:
    departure.retire()
    departure.ground.run("base", "CREATE INDEX ON bookings (guests)")
    with pytest.raises(PartitionError, match="has 2 indexes, and 3 with those of the root"):
        departure.give_back()
    assert len(departure.in_quarantine()) == 70
    departure.ground.run("base", "CREATE INDEX ON migration_quarantine.bookings_fy25_q2_w05 (guests)")
    assert departure.give_back().equal


def test_readers_and_writers_of_the_quarter_hardly_notice_a_return(departure: Departure) -> None:
    departure.retire()
    with psycopg.connect(departure.ground.databases.base_url) as reader:
        reader.execute("SELECT count(*) FROM bookings")
        assert departure.impatient(2).give_back().equal
        wait_for(lambda: departure.covered(4), "the stream goes on")
        reader.rollback()
