"""A watch over the ground of these tests, as the sensor keeps it: look by look, with what it remembers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import SecretStr

from migration_assets.domain.alerting import Alert
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.stream_watch import Problem
from migration_assets.postgres.sessions import Databases
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.watch.watching import Watched, watch_stream
from migration_assets_tests.cutover.ground import CutoverGround


def migration_of(databases: Databases) -> Migration:
    return open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(databases.legacy_url),
            base_url=SecretStr(databases.base_url),
            table="public.bookings",
            as_of=datetime(2024, 5, 15, tzinfo=UTC),
        )
    )


@dataclass
class Guard:
    """`alerts` is what the last look left open."""

    migration: Migration
    alerts: Sequence[Alert] = ()

    def look(self, *, begun: bool = True, **settings: object) -> Watched:
        changed = self.migration.settings.model_copy(update=settings)
        watched = watch_stream(replace(self.migration, settings=changed), self.alerts, begun=begun)
        self.alerts = watched.open
        return watched

    def problems(self, *, begun: bool = True, **settings: object) -> dict[ProblemCode, Problem]:
        return {problem.code: problem for problem in self.look(begun=begun, **settings).problems}

    def silent(self, looks: int = 3) -> Watched:
        """Several looks, none of which finds anything; the last of them."""
        seen = [self.look() for _ in range(looks)]
        for watched in seen:
            assert watched.problems == (), [problem.what for problem in watched.problems]
            assert watched.stored
        return seen[-1]


def guard_of(ground: CutoverGround) -> Guard:
    return Guard(migration_of(ground.databases))
