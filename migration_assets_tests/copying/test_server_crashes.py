"""kill -9 of either server in the middle of a copy, on a pair of servers of their own."""

import threading
import time
from collections.abc import Generator

import psycopg
import pytest

from migration_assets.copying.throttle import CopyLimits
from migration_assets.domain.errors import UnavailableError
from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets.ledger.slices import CopyEvidence
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import Ground, attempt_of, phases, wait_for
from migration_assets_tests.server_pairs import quick_pair


@pytest.fixture(scope="module")
def own_servers() -> Generator[EmbeddedServers]:
    """A pair that tests may crash. Nothing but the kernel's cache is at risk, which a killed process leaves alone."""
    with quick_pair() as pair:
        yield pair


@pytest.fixture
def copied(own_servers: EmbeddedServers) -> Ground:
    """W01 was copied, differs in the legacy by now, and takes 1.4 s to be copied again."""
    own_servers.start()
    own_servers.recreate_database("base", "base")
    own_servers.recreate_database("legacy", "legacy")
    ground = Ground(Databases(own_servers.legacy_url(), own_servers.base_url())).fill()
    ground.open()
    ground.copy(1)
    ground.run("legacy", "UPDATE bookings SET guests = -1")
    ground.meddle("PERFORM pg_sleep(0.02); RETURN NEW;")
    return ground


def _copy_in_background(ground: Ground, attempts: int) -> tuple[threading.Thread, list[CopyEvidence | Exception]]:
    results: list[CopyEvidence | Exception] = []

    def work() -> None:
        try:
            results.append(ground.copy(1, limits=CopyLimits(attempts=attempts)))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    with psycopg.connect(ground.databases.base_url, autocommit=True) as watch:
        wait_for(lambda: "FY25-Q2|W01:copy" in phases(watch), "the copy begins")
    time.sleep(0.3)  # some rows are on their way
    return thread, results


@pytest.mark.long
@pytest.mark.parametrize("server", ["base", "legacy"])
def test_a_copy_survives_a_server_that_crashes_and_comes_back(
    own_servers: EmbeddedServers, copied: Ground, server: ServerName
) -> None:
    thread, results = _copy_in_background(copied, CopyLimits().attempts)
    own_servers.kill(server)
    own_servers.start()
    thread.join(patience(60))
    assert [type(result) for result in results] == [CopyEvidence], results
    copied.verify(1)
    assert copied.contents("base") == copied.contents("legacy", 1)
    assert copied.staging() == []
    outcomes = [outcome for _, outcome in copied.attempts(1)]
    lost = "interrupted" if server == "base" else "failed"
    assert (outcomes[1], outcomes[-2:]) == (lost, ["succeeded", "succeeded"])


@pytest.mark.long
@pytest.mark.parametrize("server", ["base", "legacy"])
def test_a_server_that_stays_away_is_an_error_and_the_next_run_completes(
    own_servers: EmbeddedServers, copied: Ground, server: ServerName
) -> None:
    state = copied.base_state()
    thread, results = _copy_in_background(copied, attempts=2)
    own_servers.kill(server)
    thread.join(patience(60))
    assert [isinstance(result, UnavailableError) for result in results] == [True], results
    assert "migrator@" not in str(results[0])
    own_servers.start()
    assert copied.base_state() == state
    assert copied.staging() == []
    assert not copied.record(1).working
    assert attempt_of(copied.record(1)).outcome == ("interrupted" if server == "base" else "failed")
    copied.copy(1)
    copied.verify(1)
    assert copied.contents("base") == copied.contents("legacy", 1)
