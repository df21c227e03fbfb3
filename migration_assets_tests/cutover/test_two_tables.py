"""Two tables of the same two databases are cut over, and rolled back, at the same time."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.ledger.cutovers import CutoverRecord
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.ground import BOOKINGS, at_once


class Visits(CutoverGround):
    """The same for another table."""

    def insert(self, side: object, when: str = "2024-05-01 12:00+00") -> int:
        query = "INSERT INTO visits (booked_at, guests) VALUES (%s, 2) RETURNING id"
        return int(self.one(side, query, when))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def visits(ground: CutoverGround) -> Visits:
    ground.run("legacy", BOOKINGS.replace("bookings", "visits"))
    ground.ask(
        "legacy",
        "INSERT INTO visits (booked_at, guests) SELECT '2024-04-01Z'::timestamptz + mod(n, 91) * interval '1 day', n"
        " FROM generate_series(1, 910) n RETURNING 1",
    )
    other = Visits(ground.databases, spec=TableSpec(QualifiedName("public", "visits"), "booked_at"))
    other.streamed()
    return other


def both(one: Callable[[], CutoverRecord], two: Callable[[], CutoverRecord]) -> list[str]:
    done = at_once([one, two])
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [record.outcome for record in done if isinstance(record, CutoverRecord)]


@pytest.mark.long
def test_both_go_there_and_back_at_the_same_time(ground: CutoverGround, visits: Visits) -> None:
    # A rehearsal and a cutover beside each other, too.
    assert both(lambda: ground.cut(rehearse=True), visits.cut) == ["rehearsed", "succeeded"]
    assert (ground.charge(), visits.charge()) == ("legacy", "base")
    ground.insert("legacy")
    visits.insert("base")
    assert both(ground.cut, visits.back) == ["succeeded", "succeeded"]
    assert (ground.charge(), visits.charge()) == ("base", "legacy")
    ground.insert("base")
    visits.insert("legacy")
    assert both(ground.back, visits.cut) == ["succeeded", "succeeded"]
    assert both(ground.cut, visits.back) == ["succeeded", "succeeded"]
    for table in (ground, visits):
        assert table.watch() is None
        settle_down(table)
        table.equal()


@pytest.mark.long
def test_of_two_that_want_the_same_table_one_is_told_who_is_at_work(ground: CutoverGround) -> None:
    hurried = replace(ground)
    done = at_once([lambda: ground.cut(rehearse=True), lambda: hurried.cut(rehearse=True)])
    assert all(isinstance(result, CutoverRecord) or "being worked on" in str(result) for result in done), done
    assert any(isinstance(result, CutoverRecord) for result in done)
    assert ground.cut().outcome == "succeeded"
    ground.insert("base")
    settle_down(ground)
    ground.equal()
