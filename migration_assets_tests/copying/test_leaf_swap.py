"""A reader in the way: the swap waits for it in short tries, and nobody waits long behind the swap."""

import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from migration_assets.copying.throttle import CopyLimits
from migration_assets.domain.errors import PartitionError, UnavailableError
from migration_assets_tests.freezes import freezes, patience
from migration_assets_tests.ground import IMPATIENT, Ground, phases, wait_for

if TYPE_CHECKING:
    from migration_assets.ledger.slices import CopyEvidence


@pytest.fixture
def copied(ground: Ground) -> Ground:
    ground.fill().open()
    ground.copy(1)
    ground.run("legacy", "UPDATE bookings SET guests = -1")
    return ground


@pytest.mark.long
def test_a_long_reader_delays_the_swap_and_the_swap_delays_nobody_for_long(copied: Ground) -> None:
    results: list[CopyEvidence] = []
    limits = CopyLimits(lock_timeout_ms=150, lock_patience_seconds=30, attempts=1)
    copier = threading.Thread(target=lambda: results.append(copied.copy(1, limits=limits)))
    waits: list[float] = []
    with (
        freezes() as machine,
        psycopg.connect(copied.databases.base_url) as reader,
        psycopg.connect(copied.databases.base_url, autocommit=True) as other,
    ):
        reader.execute("SELECT count(*) FROM bookings_fy25_q2")
        copier.start()
        wait_for(lambda: "FY25-Q2|W01:swap" in phases(other), "the swap begins")
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            start = time.perf_counter()
            row = other.execute("SELECT count(*) FROM bookings WHERE booked_at < '2024-04-08Z'").fetchone()
            waits.append(time.perf_counter() - start)
            assert row == (70,)
        assert results == []
        reader.rollback()
        copier.join(patience(30))
    print(f"{len(waits)} readers waited {max(waits) * 1000:.0f} ms at the most")
    assert len(results) == 1
    assert max(waits) > 0.05  # the swap was really in their way
    assert max(waits) < 0.15 + 0.5 + 2 * machine.longest_ms / 1000
    copied.verify(1)


def test_when_patience_ends_the_base_is_as_before(copied: Ground) -> None:
    state = copied.base_state()
    with psycopg.connect(copied.databases.base_url) as reader:
        reader.execute("SELECT count(*) FROM bookings_fy25_q2_w01")
        with pytest.raises(UnavailableError, match="lock timeout"):
            copied.copy(1, limits=IMPATIENT)
    assert copied.base_state() == state
    assert copied.staging() == []
    assert copied.attempts(1) == [("copy", "succeeded"), ("copy", "failed")]


@pytest.mark.long
def test_a_whole_copy_is_tried_again_when_the_reader_outlasts_the_first_one(copied: Ground) -> None:
    limits = CopyLimits(lock_timeout_ms=50, lock_patience_seconds=0.1, attempts=10)
    with psycopg.connect(copied.databases.base_url) as reader:
        reader.execute("SELECT count(*) FROM bookings")
        copier = threading.Thread(target=lambda: copied.copy(1, limits=limits))
        copier.start()
        wait_for(lambda: ("copy", "failed") in copied.attempts(1), "a try fails")
        reader.rollback()
        copier.join(patience(30))
    assert copied.attempts(1)[-1] == ("copy", "succeeded")
    copied.verify(1)


def test_a_leaf_that_somebody_detached_is_refused(copied: Ground) -> None:
    copied.run("base", "ALTER TABLE bookings_fy25_q2 DETACH PARTITION bookings_fy25_q2_w01")
    with pytest.raises(PartitionError, match="is not a partition"):
        copied.copy(1)
    assert copied.one("base", "SELECT count(*) FROM bookings_fy25_q2_w01") == 70
