"""Keys that a transaction may break for a while, and indexes that one side alone was given later."""

from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.findings import Severity
from migration_assets.domain.stream_watch import View, evaluate
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases
from migration_assets.watch.look import LookLimits, observe_stream
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import Ground
from migration_assets_tests.preflight.conftest import Patient

ROOMS: LiteralString = (
    "CREATE TABLE bookings (id bigint, booked_at timestamptz NOT NULL, room int, slot int, PRIMARY KEY (id) {},"
    " CONSTRAINT one_slot UNIQUE (room, slot, booked_at) DEFERRABLE INITIALLY DEFERRED);"
    " INSERT INTO bookings SELECT n, '2024-04-02Z', 1, n FROM generate_series(1, 9) n"
)
SWAP: LiteralString = "UPDATE bookings SET slot = CASE id WHEN 4 THEN 5 ELSE 4 END WHERE id IN (4, 5)"


def grounds(databases: Urls, of_key: LiteralString) -> CutoverGround:
    ground = CutoverGround(Databases(databases.legacy_url, databases.base_url))
    ground.run("legacy", ROOMS.format(of_key))
    ground.open()
    ground.copy(1)
    ground.streamed()
    return ground


@pytest.mark.long
@pytest.mark.parametrize("of_key", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_transaction_that_is_legal_on_one_side_is_legal_on_the_other_both_ways(
    databases: Urls, of_key: LiteralString
) -> None:
    ground = grounds(databases, of_key)
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        here, there = (require_table(one, ground.spec.table, "legacy") for one in (legacy, base))
    assert there.primary_key_deferral == here.primary_key_deferral
    assert [one.constraint for one in there.indexes] == [one.constraint for one in here.indexes]
    ground.run("legacy", SWAP)
    if of_key:
        # Two rows of one moment that change their keys.
        ground.run("legacy", "UPDATE bookings SET id = CASE id WHEN 7 THEN 8 ELSE 7 END WHERE id IN (7, 8)")
    ground.assert_same()
    ground.copy(1)  # a leaf that is made anew fits as well
    ground.validate(1)
    ground.cut()
    ground.run("base", SWAP, "DELETE FROM bookings WHERE id = 1", "UPDATE bookings SET slot = 99 WHERE id = 2")
    if of_key:
        ground.run("base", "UPDATE bookings SET id = CASE id WHEN 7 THEN 8 ELSE 7 END WHERE id IN (7, 8)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        ground.run("base", "INSERT INTO bookings SELECT id + 100, booked_at, room, slot FROM bookings WHERE id = 5")
    ground.back()
    ground.equal()


def test_a_base_whose_key_is_immediate_is_told_with_what_makes_it_deferrable(databases: Urls) -> None:
    ground = grounds(databases, "DEFERRABLE")
    # As every base before this was known has them.
    ground.run(
        "base",
        "ALTER TABLE bookings DROP CONSTRAINT one_slot, DROP CONSTRAINT bookings_pkey, ADD PRIMARY KEY (id, booked_at)",
        "CREATE UNIQUE INDEX one_slot ON bookings (room, slot, booked_at)",
    )
    ground.run("legacy", SWAP)
    sample = observe_stream(ground.databases, ground.spec, LookLimits(heartbeat_seconds=0.1))
    told = next(one.what for one in evaluate(View(sample)).problems if one.code == "columns_differ")
    assert "unique key one_slot is UNIQUE (room, slot, booked_at) DEFERRABLE INITIALLY DEFERRED in the legacy" in told
    for part in told.split("in the base: BEGIN;")[1:]:
        ground.run("base", "BEGIN;" + part.partition("COMMIT;")[0] + "COMMIT;")  # pyright: ignore[reportArgumentType]
    ground.assert_same()


def test_an_index_that_the_legacy_was_given_later_stops_no_copy_and_is_told(
    patient: Patient,
) -> None:
    patient.with_bookings()
    ground: Ground = patient.ground
    ground.open()
    ground.run("legacy", "CREATE INDEX by_guests ON bookings (guests DESC) WHERE guests > 2")
    ground.run("base", "CREATE INDEX for_the_application ON bookings (price)")
    ground.copy(1)
    leaf: LiteralString = "SELECT count(*) FROM pg_indexes WHERE tablename = 'bookings_fy25_q2_w01'"
    assert ground.one("base", leaf) == 3
    finding = patient.examine().one("base_indexes")
    assert finding.severity is Severity.WARNING
    with psycopg.connect(ground.databases.base_url, autocommit=True) as base:
        base.execute(finding.remedy.partition("rows: ")[2].encode())
    ground.copy(1)
    assert ground.one("base", leaf) == 4
    assert "base_indexes" not in patient.examine().warnings


@pytest.fixture
def patient(databases: Urls) -> Patient:
    return Patient(Ground(Databases(databases.legacy_url, databases.base_url)))
