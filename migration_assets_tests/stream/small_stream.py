"""A small stream of an empty table, made of the product's own parts, for tests that watch it and break it."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from migration_assets.domain.samples import ProblemCode, StreamSample
from migration_assets.domain.stream_watch import Problem, View, evaluate
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.stream import (
    StreamNames,
    StreamStatus,
    begin_stream,
    set_status,
    stream_names,
)
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.stream.legacy_side import (
    create_publication,
    prepare_legacy,
    published_filter,
    row_filter,
)
from migration_assets.stream.servers import note_pair
from migration_assets.stream.subscription import create_subscription, legacy_conninfo
from migration_assets.watch.look import LookLimits, observe_stream
from migration_assets_tests.ground import BOOKINGS, QUARTER, Ground, wait_for, week

QUICK = LookLimits(heartbeat_seconds=0.4)
PATIENT = LookLimits(heartbeat_seconds=10.0)


@dataclass(frozen=True)
class SmallStream:
    """A live stream of all weeks of FY25-Q2."""

    ground: Ground
    names: StreamNames

    def look(self, limits: LookLimits = QUICK) -> StreamSample:
        return observe_stream(self.ground.databases, self.ground.spec, limits)

    def healthy(self) -> StreamSample:
        """A look whose heartbeat came, so that the worker is up."""
        samples = [self.look(PATIENT)]
        # A look that met an older heartbeat under way, and no worker yet, only waits: the next one sends its own.
        wait_for(lambda: samples[-1].heartbeat_arrived or samples.append(self.look(PATIENT)), "a heartbeat arrives")
        return samples[-1]

    def problems(self, *samples: StreamSample) -> dict[ProblemCode, Problem]:
        """What is wrong at the last of them."""
        evaluation = evaluate(View(samples[-1], samples[:-1]))
        return {problem.code: problem for problem in evaluation.problems}

    def wrong_now(self) -> dict[ProblemCode, Problem]:
        return self.problems(self.look())

    def on(self, side: str, statement: str) -> None:
        """With the names of the stream's parts in place of {}."""
        url = self.ground.databases.legacy_url if side == "legacy" else self.ground.databases.base_url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.format(self.names.publication).encode())

    def mend(self) -> None:
        """Live and enabled, whatever it was; what never arrived, since nobody published it, is forgiven."""
        databases = self.ground.databases
        with databases.session("base", "test") as base, databases.session("legacy", "test") as legacy:
            note_pair(base, legacy, self.ground.spec.relation, "a test")
            set_status(base, self.ground.spec.relation, StreamStatus.LIVE)
        self.on("base", "ALTER SUBSCRIPTION {} ENABLE")

    def require_health(self) -> None:
        """Green again, whatever was done to it."""
        first = self.healthy()
        assert self.problems(first, self.healthy()) == {}

    def drop_subscription(self) -> None:
        """As a person does who wants to be rid of it and forgets the slot."""
        self.on("base", "ALTER SUBSCRIPTION {} DISABLE")
        self.on("base", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)")
        self.on("base", "DROP SUBSCRIPTION {}")

    def book(self, row: int) -> None:
        """A booking on the legacy, in W02."""
        self.on("legacy", f"INSERT INTO public.bookings (id, booked_at, note) VALUES ({row}, '2024-04-09', 'small')")

    def arrived(self, row: int) -> bool:
        return self.ground.one("base", "SELECT count(*) FROM public.bookings WHERE id = %s", row) == 1

    def wait_for_slot_to_be_free(self) -> None:
        wait_for(
            lambda: self.ground.one(
                "legacy", "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", self.names.slot
            ),
            "the walsender ends",
        )


def small_stream(ground: Ground) -> SmallStream:
    """Everything from an empty table to an enabled subscription; nothing to true up."""
    ground.run("legacy", BOOKINGS)
    ground.open()
    spec, databases = ground.spec, ground.databases
    with databases.session("legacy", "test") as legacy, databases.session("base", "test") as base:
        names = stream_names(base, spec.relation)
        begin_stream(base, spec.relation, names, "a test")
        prepare_legacy(legacy, spec, names.publication, patience_seconds=5)
        description = require_table(legacy, spec.table, "legacy")
        weeks = [week(number) for number in range(1, 14)]
        create_publication(legacy, names.publication, spec, row_filter(weeks, description, spec, ground.calendar))
        legacy.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [names.slot])
        create_subscription(base, names, legacy_conninfo(legacy, databases.legacy_url, names.subscription), binary=True)
        base.execute(
            sql.SQL("UPDATE migration.streams SET row_filter = {}").format(
                sql.Literal(published_filter(legacy, names.publication, spec))
            )
        )
        set_status(base, spec.relation, StreamStatus.LIVE)
    assert week(1).quarter == QUARTER
    return SmallStream(ground, names)


@contextmanager
def lasting_stream(servers: EmbeddedServers) -> Generator[SmallStream]:
    """One with databases of its own, for many tests that leave it as it was."""
    name = f"test_{secrets.token_hex(6)}"
    sides: tuple[Side, Side] = ("legacy", "base")
    for side in sides:
        servers.recreate_database(side, name)
    yield small_stream(Ground(Databases(servers.legacy_url(name), servers.base_url(name))))
    for side in reversed(sides):
        servers.drop_database(side, name)
