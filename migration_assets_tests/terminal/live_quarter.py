"""A small quarter under CDC, made by the product's own steps, and the command line pointed at it."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from click.testing import CliRunner, Result
from pydantic import SecretStr

from migration_assets.cli import main
from migration_assets.copying.weeks import copy_week
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.holding import start_stream
from migration_assets.watch.overview import Overview, read_overview
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, Ground


@dataclass(frozen=True)
class LiveQuarter:
    """FY25-Q2 of public.bookings, 28 rows a week, all under CDC."""

    ground: Ground
    migration: Migration

    @property
    def environment(self) -> dict[str, str]:
        databases = self.ground.databases
        return {
            "MIGRATION_LEGACY_URL": databases.legacy_url,
            "MIGRATION_BASE_URL": databases.base_url,
            "MIGRATION_TABLE": "public.bookings",
            "MIGRATION_AS_OF": "2024-05-15T12:00:00Z",
            "COLUMNS": "160",
        }

    def run(self, *arguments: str, **environment: str) -> Result:
        """As a person types it. Arguments are one text where no blank is in them."""
        words = arguments[0].split() if len(arguments) == 1 else list(arguments)
        return CliRunner().invoke(main, words, env={**self.environment, **environment})

    def overview(self) -> Overview:
        with self.ground.databases.session("base", "test") as base:
            return read_overview(base, self.ground.spec)

    def states(self) -> dict[str, str]:
        return dict(self.ground.ask("base", "SELECT week, state FROM migration.slices"))

    def damage(self) -> None:
        """In W05: a row less, and one with another note and number of guests."""
        self.ground.run(
            "base",
            "DELETE FROM bookings_fy25_q2_w05 WHERE id = (SELECT min(id) FROM bookings_fy25_q2_w05)",
            "UPDATE bookings_fy25_q2_w05 SET note = 'very private', guests = guests + 1"
            " WHERE id = (SELECT max(id) FROM bookings_fy25_q2_w05)",
        )

    @property
    def subscription(self) -> str:
        return str(self.ground.one("base", "SELECT subscription FROM migration.streams"))


@contextmanager
def live_quarter(clones: Clones) -> Generator[LiveQuarter]:
    with clones.grown("live_quarter", lambda ground: _migrate(_of(ground.fill(28 * 13)))) as databases:
        yield _of(Ground(databases))


def _of(ground: Ground) -> LiveQuarter:
    settings = MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(ground.databases.legacy_url),
        base_url=SecretStr(ground.databases.base_url),
        table="public.bookings",
    )
    return LiveQuarter(ground, open_migration(settings))


def _migrate(quarter: LiveQuarter) -> None:
    examine(quarter.migration)
    open_quarter(quarter.migration, QUARTER)
    for week in quarter.migration.calendar.weeks_of(QUARTER):
        copy_week(quarter.migration, week)
    start_stream(quarter.migration, QUARTER)


def lines_of(result: Result, pattern: str) -> list[str]:
    return [line for line in result.output.splitlines() if re.search(pattern, line)]
