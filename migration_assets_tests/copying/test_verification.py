"""Whatever happens to a copied slice is found by reading it again, and a new copy heals it."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString

import pytest

from migration_assets.domain.errors import LedgerError, SliceMismatchError, SliceStateError
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.ground import Ground, reread_of, wait_for


@pytest.fixture(scope="module")
def one_ground(servers: EmbeddedServers) -> Generator[Ground]:
    for side in ("legacy", "base"):
        servers.recreate_database(side, "verification")
    ground = Ground(Databases(servers.legacy_url("verification"), servers.base_url("verification"))).fill()
    ground.open()
    yield ground
    for side in ("base", "legacy"):
        servers.drop_database(side, "verification")


@pytest.fixture
def copied(one_ground: Ground) -> Ground:
    """W01 and W02, fresh; nothing of earlier tests is in the ledger's attempts or in the leaves."""
    one_ground.run(
        "base",
        "TRUNCATE migration.attempts, bookings",
        "ALTER TABLE bookings DROP CONSTRAINT IF EXISTS bookings_pkey",
        "ALTER TABLE bookings ADD PRIMARY KEY (id, booked_at)",
    )
    one_ground.copy(1)
    one_ground.copy(2)
    return one_ground


def test_an_untouched_slice_is_verified(copied: Ground) -> None:
    verified = copied.verify(1)
    record = copied.record(1)
    assert verified.base == verified.legacy == record.base
    assert reread_of(record).equal is True
    assert copied.attempts(1) == [("copy", "succeeded"), ("verify", "succeeded")]


def test_a_new_copy_is_not_verified_by_the_verification_of_the_old_one(copied: Ground) -> None:
    copied.verify(1)
    copied.copy(1)
    assert copied.record(1).verified is None


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    "damage",
    [
        ("UPDATE bookings SET guests = guests + 1 WHERE id = 91",),
        ("UPDATE bookings SET price = price * 1.0 WHERE id = 91",),
        ("DELETE FROM bookings WHERE id = 91",),
        ("INSERT INTO bookings SELECT id + 100000, booked_at, guests, price, note FROM bookings WHERE id = 91",),
        (
            "ALTER TABLE bookings DROP CONSTRAINT bookings_pkey",
            "INSERT INTO bookings SELECT * FROM bookings WHERE id = 91",
        ),
        ("UPDATE bookings SET booked_at = booked_at + interval '1 hour' WHERE id = 91",),
        ("UPDATE bookings SET booked_at = booked_at + interval '7 days' WHERE id = 91",),
        ("UPDATE bookings SET id = 100000 WHERE id = 91",),
        ("UPDATE bookings b SET guests = o.guests FROM bookings o WHERE (b.id, o.id) IN ((91, 92), (92, 91))",),
        ("TRUNCATE bookings_fy25_q2_w01",),
    ],
    ids=["value", "scale", "lost", "added", "twice", "hour", "week", "key", "swapped", "emptied"],
)
def test_damage_after_the_copy_is_found_and_healed_by_a_new_copy(
    copied: Ground, damage: tuple[LiteralString, ...]
) -> None:
    copied.run("base", *damage)
    with pytest.raises(SliceMismatchError) as caught:
        copied.verify(1)
    assert caught.value.legacy.rows == 70
    record = copied.record(1)
    assert reread_of(record).equal is False
    assert record.base == caught.value.base != record.legacy == caught.value.legacy
    assert copied.attempts(1)[-1] == ("verify", "mismatch")
    if len(damage) > 1:
        copied.run("base", "DELETE FROM bookings WHERE id = 91", "ALTER TABLE bookings ADD PRIMARY KEY (id, booked_at)")
    copied.copy(1)
    copied.verify(1)
    assert copied.contents("base", 1) == copied.contents("legacy", 1)


def test_a_row_that_moved_to_another_week_is_missed_in_both(copied: Ground) -> None:
    copied.run("base", "UPDATE bookings SET booked_at = booked_at + interval '7 days' WHERE id = 91")
    with pytest.raises(SliceMismatchError, match=r"70 rows.*69 rows"):
        copied.verify(1)
    with pytest.raises(SliceMismatchError, match=r"70 rows.*71 rows"):
        copied.verify(2)


def test_who_waited_for_a_copy_judges_by_what_the_copy_left_and_raises_no_alarm(copied: Ground) -> None:
    copied.run("legacy", "UPDATE bookings SET guests = guests + 1")
    before = copied.record()
    lock = f"slice {before.lock_key}"
    with ThreadPoolExecutor(2) as pool:
        with copied.holding(lock):
            copy = pool.submit(copied.copy)
            wait_for(lambda: copied.queue(lock) == 2, "the copy at the lock")
            verification = pool.submit(copied.verify)  # it stands behind the copy, and has looked at the ledger before
            wait_for(lambda: copied.queue(lock) == 3, "the verification behind it")
        assert copy.result().base != before.base
        assert verification.result().base == copy.result().base
    assert reread_of(copied.record()).equal is True


def test_a_slice_that_was_never_copied_is_not_verified(copied: Ground) -> None:
    with pytest.raises(SliceStateError, match="absent"):
        copied.verify(3)


def test_a_fingerprint_of_another_method_is_not_compared(copied: Ground) -> None:
    copied.run("base", "UPDATE migration.slices SET method = 'older' WHERE week = 'W01'")
    with pytest.raises(LedgerError, match="older"):
        copied.verify(1)
