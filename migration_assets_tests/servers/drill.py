"""What a drill needs: a table under CDC on servers that may be lost, and the judge, who compares as text."""

import secrets
from collections.abc import Sequence

from pydantic import SecretStr

from migration_assets.domain.stream_rules import View
from migration_assets.domain.stream_sample import ProblemCode, StreamSample
from migration_assets.domain.stream_watch import Problem, evaluate
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.postgres.stream_health import LookLimits, observe_stream
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets_tests.postgres.support import Ground
from migration_assets_tests.servers.standbys import Spare

PATIENT = LookLimits(heartbeat_seconds=10.0)
_SIDES: tuple[Side, Side] = ("legacy", "base")


def streamed(spare: Spare, rows: int = 182) -> Ground:
    """A small table under CDC, all weeks of FY25-Q2 validated at one cut."""
    name = f"drill_{secrets.token_hex(4)}"
    for side in _SIDES:
        spare.pair.recreate_database(side, name)
    ground = Ground(Databases(spare.url("legacy", name), spare.url("base", name))).fill(rows).streamed()
    assert ground.reconcile().equal
    return ground


def migration(ground: Ground) -> Migration:
    """The product on the ground's table."""
    return open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(ground.databases.legacy_url),
            base_url=SecretStr(ground.databases.base_url),
            table="public.bookings",
            control_column="booked_at",
            as_of=None,
            retry_attempts=1,
        )
    )


def book(ground: Ground, ids: Sequence[int]) -> None:
    """Bookings on the legacy, one transaction each, in W05."""
    for number in ids:
        ground.ask(
            "legacy",
            "INSERT INTO bookings (id, booked_at, guests, note) VALUES (%s, '2024-05-01 10:00+00', 1, 'drill')"
            " RETURNING 1",
            number,
        )


def look(ground: Ground) -> tuple[StreamSample, dict[ProblemCode, Problem]]:
    """One look, and what is wrong at it."""
    sample = observe_stream(ground.databases, ground.spec, PATIENT)
    return sample, {problem.code: problem for problem in evaluate(View(sample)).problems}
