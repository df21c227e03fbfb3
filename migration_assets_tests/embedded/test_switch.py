"""Live traffic follows its switch: what a held side refuses is tried again, and nothing is lost on the way."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from migration_assets.embedded.switch import Switch, point
from migration_assets.embedded.traffic import TrafficPlan, run_traffic
from migration_assets_tests.conftest import Databases
from migration_assets_tests.embedded.test_traffic import make_legacy

_FLAT_OUT = TrafficPlan(rate=0, seed=5)
_REFUSE = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'held' USING ERRCODE = '25006'; END $$;"
    "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON amenity_bookings"
    " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
)


def _at(steps: dict[int, Callable[[], object]], last: int) -> Callable[[], bool]:
    """A stop that does something before the transactions of these numbers; true at the last."""
    numbers: Iterator[int] = iter(range(last + 1))

    def stop() -> bool:
        number = next(numbers)
        steps.get(number, lambda: None)()
        return number == last

    return stop


def _changes(url: str) -> int:
    with psycopg.connect(url) as connection:
        [[made]] = connection.execute(
            "SELECT count(*) FROM amenity_bookings WHERE created_by = 'live-traffic'"
        ).fetchall()
    return int(made)


def _refuse(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_REFUSE)


@pytest.fixture
def switch(databases: Databases, tmp_path: Path) -> Switch:
    for url in (databases.legacy_url, databases.base_url):
        make_legacy(url, rows=300)
    point(tmp_path / "switch", "legacy")
    return Switch({"legacy": databases.legacy_url, "base": databases.base_url}, tmp_path / "switch")


def test_it_follows_to_the_base_and_back_and_writes_nowhere_else(switch: Switch) -> None:
    assert switch.path is not None
    path, seen = switch.path, list[int]()
    steps: dict[int, Callable[[], object]] = {
        100: lambda: (seen.append(_changes(switch.urls["base"])), point(path, "base")),
        200: lambda: (seen.append(_changes(switch.urls["base"])), point(path, "legacy")),
        201: lambda: seen.append(_changes(switch.urls["base"])),
    }
    stats = run_traffic(switch, _FLAT_OUT, stop=_at(steps, 300))
    assert seen[0] == 0
    assert seen[1] > 0
    assert seen[2] == seen[1] == _changes(switch.urls["base"])
    assert (stats.switches, stats.errors, stats.lost_connections, stats.refused) == (2, 0, 0, 0)
    assert 0 < stats.on_base < stats.transactions


@pytest.mark.long
def test_what_a_held_side_refuses_is_tried_again_until_the_switch_points_elsewhere(switch: Switch) -> None:
    assert switch.path is not None
    path = switch.path
    steps: dict[int, Callable[[], object]] = {
        60: lambda: _refuse(switch.urls["legacy"]),
        400: lambda: point(path, "base"),
    }
    stats = run_traffic(switch, _FLAT_OUT, stop=_at(steps, 600))
    assert stats.refused > 0
    assert stats.longest_refusal_ms > 0
    assert stats.errors == stats.lost_connections == 0
    assert (stats.switches, stats.on_base > 0) == (1, True)


def test_the_hooks_command_points_the_switch_and_takes_no_other_side(switch: Switch) -> None:
    assert switch.path is not None
    command = [sys.executable, "-m", "migration_assets.embedded.switch", str(switch.path)]
    subprocess.run([*command, "base"], check=True)
    assert switch.side() == "base"
    assert subprocess.run([*command, "nowhere"], check=False, capture_output=True).returncode == 2
    assert switch.side() == "base"
    switch.path.write_text("elsewhere")
    with pytest.raises(ValueError, match="names no side"):
        switch.side()


def test_urls_are_never_shown(switch: Switch) -> None:
    assert "postgresql://" not in repr(switch)
