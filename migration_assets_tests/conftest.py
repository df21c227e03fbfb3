"""Real PostgreSQL for every test that asks for it: one pair of servers a session, one pair of databases a test."""

import signal
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases as ProductDatabases
from migration_assets_tests import workers
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import Ground
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.slow_tests import SlowTests

# The longest: begun last, they would run alone at the end while the other workers have nothing to do.
_LONG = ("test_demo.py", "test_ui.py", "test_ui_killed_run.py", "test_ui_terminated_cutover.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also the tests and cases marked long")
    parser.addoption("--soak", action="store_true", help="run everything: also those marked soak, and whole sweeps")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SlowTests())
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(workers)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG)
    if config.getoption("--soak"):
        return
    left = {item for item in items if item.get_closest_marker("soak")}
    if not config.getoption("--long"):
        left |= _long_ones(items)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


def _long_ones(items: list[pytest.Item]) -> set[pytest.Item]:
    """Those marked `long`; of a test that is marked `long(but=n)` all cases but the first n."""
    cases: Counter[str] = Counter()
    found: set[pytest.Item] = set()
    for item in items:
        marker = item.get_closest_marker("long")
        if marker is None:
            continue
        test = item.nodeid.partition("[")[0]
        cases[test] += 1
        if cases[test] > marker.kwargs.get("but", 0):
            found.add(item)
    return found


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether everything is to be tried: for tests that go through a list of cases by themselves."""
    return bool(request.config.getoption("--soak"))


@dataclass(frozen=True)
class Databases:
    """An empty database on each server, with names that no other test has."""

    legacy_url: str
    base_url: str


@pytest.fixture
def ordinary_signals() -> Generator[None]:
    """As a shell's child has them: whoever runs tests in the background, or in workers, may have them ignored."""
    ordinary = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {one: signal.signal(one, handler) for one, handler in ordinary.items()}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.fixture(scope="session")
def servers() -> Generator[EmbeddedServers]:
    """The pair that all tests share which crash nothing."""
    with quick_pair() as pair:
        yield pair


@pytest.fixture(scope="session")
def clones(servers: EmbeddedServers) -> Clones:
    """What is made once and copied for each test."""
    return Clones(servers)


@pytest.fixture
def databases(clones: Clones) -> Generator[Databases]:
    """A fresh database on each server, dropped afterwards with all slots and subscriptions."""
    with clones.empty() as made:
        yield Databases(legacy_url=made.legacy_url, base_url=made.base_url)


@pytest.fixture
def ground(databases: Databases) -> Ground:
    """Both databases, empty, with sessions as the product opens them."""
    return Ground(ProductDatabases(databases.legacy_url, databases.base_url))
