"""The monitor: skips with a reason where there is nothing to watch, shows figures where there is, never fails."""

import json
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from migration_assets.defs.resources import MIGRATION_SOURCE, MigrationSource, source_resource
from migration_assets.defs.sensors import change_stream_monitor
from migration_assets.runtime import open_migration
from migration_assets_tests.defs.conftest import QUARTER, Project

NOWHERE = SecretStr("postgresql://migrator@127.0.0.1:1/nowhere")


def tick(project: Project, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    source = {MIGRATION_SOURCE: MigrationSource(project.migration)}
    with dg.build_sensor_context(instance=project.instance, cursor=cursor, resources=source) as context:
        found = change_stream_monitor(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def without(project: Project, side: str) -> Project:
    """The same migration with one server that is nowhere."""
    settings = project.migration.settings.model_copy(update={f"{side}_url": NOWHERE})
    return Project(open_migration(settings), project.instance)


def test_without_a_stream_it_skips_and_leaves_the_base_as_it_is(empty_project: Project) -> None:
    found = tick(empty_project)
    assert isinstance(found, dg.SkipReason)
    assert found.skip_message == "no change stream was begun yet"
    assert empty_project.on_base("SELECT to_regnamespace('migration')") == [(None,)]


@pytest.mark.parametrize("side", ["base", "legacy"])
def test_with_a_dead_server_and_no_stream_it_skips(empty_project: Project, side: str) -> None:
    found = tick(without(empty_project, side))
    assert isinstance(found, dg.SkipReason)
    assert found.skip_message


def test_where_nothing_was_ever_started_it_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATION_VAR", str(tmp_path / "var"))
    with (
        dg.DagsterInstance.ephemeral() as instance,  # pyright: ignore[reportUnknownMemberType]
        dg.build_sensor_context(instance=instance, resources={MIGRATION_SOURCE: source_resource(None)}) as context,
    ):
        found = change_stream_monitor(context)
    assert isinstance(found, dg.SkipReason)
    assert str(found.skip_message).startswith("nothing to watch: ")


def test_a_stream_shows_as_an_observation_of_every_quarter_with_figures_that_plot(streamed: Project) -> None:
    found = tick(streamed)
    assert isinstance(found, dg.SensorResult)
    [event] = found.asset_events
    assert isinstance(event, dg.AssetObservation)
    assert (event.asset_key.to_user_string(), event.partition) == ("change_stream", QUARTER.key)
    for name in ("lag_seconds", "retained_wal_bytes", "unconfirmed_bytes", "paused_seconds", "problems"):
        assert isinstance(event.metadata[name].value, int | float), name
    assert "nothing is wrong" in str(found.skip_reason and found.skip_reason.skip_message)
    assert json.loads(found.cursor or "")["quarters"] == [QUARTER.key]


def test_a_base_that_goes_away_later_is_a_problem_that_the_next_tick_remembers(streamed: Project) -> None:
    first = tick(streamed)
    assert isinstance(first, dg.SensorResult)
    broken = without(streamed, "base")
    second = tick(broken, first.cursor)
    assert isinstance(second, dg.SensorResult)
    assert not second.asset_events
    assert "the base cannot be asked" in str(second.skip_reason and second.skip_reason.skip_message)
    [alert] = json.loads(json.loads(second.cursor or "")["alerts"])
    assert (alert["code"], alert["severity"]) == ("base_unreachable", "critical")
    third = tick(broken, second.cursor)
    assert isinstance(third, dg.SensorResult)
    [again] = json.loads(json.loads(third.cursor or "")["alerts"])
    assert again["since"] == alert["since"], "one alert, told once"
    assert again["sent_at"] == alert["sent_at"]


def test_a_subscription_that_somebody_disabled_is_seen(streamed: Project) -> None:
    streamed.on_base(f"ALTER SUBSCRIPTION {streamed.subscription()} DISABLE")
    found = tick(streamed)
    assert isinstance(found, dg.SensorResult)
    [event] = found.asset_events
    assert isinstance(event, dg.AssetObservation)
    assert int(str(event.metadata["problems"].value)) >= 1
    assert int(str(event.metadata["open_alerts"].value)) >= 1
    assert "disabled" in str(event.description)
