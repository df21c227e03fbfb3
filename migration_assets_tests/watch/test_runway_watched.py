"""The runway in the stream's watch: told in time, by name, and taken back when the quarter has joined."""

from collections.abc import Generator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.watch.watching import observe, watch_stream
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, Ground


@pytest.fixture
def ground(clones: Clones) -> Generator[Ground]:
    """FY25-Q2 under CDC, FY25-Q3 neither open nor joined."""
    with clones.streamed(91) as databases:
        yield Ground(databases)


def migration_at(ground: Ground, now: datetime) -> Migration:
    return open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(ground.databases.legacy_url),
            base_url=SecretStr(ground.databases.base_url),
            table="public.bookings",
            as_of=now,
            heartbeat_seconds=0.5,
        )
    )


def runway(ground: Ground, now: datetime) -> tuple[Severity, str] | None:
    """What one look says of it."""
    found = [p for p in observe(migration_at(ground, now)).problems if p.code is ProblemCode.RUNWAY]
    return (found[0].severity, found[0].what) if found else None


def test_the_runway_is_told_in_time_and_gets_worse_until_the_quarter_has_joined(ground: Ground) -> None:
    june = datetime(2024, 6, 1, tzinfo=UTC)
    assert runway(ground, june) is None
    assert runway(ground, june.replace(day=24)) == (
        Severity.WARNING,
        "the runway is 7.0 days of 14: then FY25-Q3|W01 has no leaf",
    )
    assert runway(ground, june.replace(day=28)) == (
        Severity.CRITICAL,
        "the runway is 3.0 days of 14: then FY25-Q3|W01 has no leaf",
    )
    ground.open(QUARTER.next)
    late = runway(ground, datetime(2024, 7, 20, tzinfo=UTC))
    assert late == (Severity.CRITICAL, "the runway is 0.0 days of 14: then FY25-Q3|W03 is not under CDC")
    ground.stream(QUARTER.next)
    assert runway(ground, june.replace(day=28)) is None
    assert runway(ground, datetime(2024, 7, 20, tzinfo=UTC)) is None


def test_a_stream_that_works_on_the_past_has_no_runway_to_keep(ground: Ground) -> None:
    observed = observe(migration_at(ground, datetime(2026, 11, 22, tzinfo=UTC)))
    assert observed.sample.runway_days is None
    assert observed.problems == ()


def test_the_watch_raises_it_as_an_alert_with_what_to_do_and_takes_it_back(ground: Ground) -> None:
    migration = migration_at(ground, datetime(2024, 6, 28, tzinfo=UTC))
    watched = watch_stream(migration)
    [alert] = [one for one in watched.raised if one.code is ProblemCode.RUNWAY]
    assert "quarter_opener" in alert.next_step
    assert watched.stored
    assert ground.one("base", "SELECT (sample ->> 'runway_days')::float8 FROM migration.stream_samples") == 3.0
    ground.open(QUARTER.next)
    ground.stream(QUARTER.next)
    for _ in range(3):
        watched = watch_stream(migration)
    assert [one.code for one in watched.cleared] == [ProblemCode.RUNWAY]
