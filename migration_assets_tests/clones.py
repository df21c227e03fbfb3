"""Databases of their own for every test, copied from such as were made once: empty ones, and a quarter under CDC.

A copy of files costs a tenth of what it takes to make the same anew. Slots and subscriptions are in no copy: those of a
stream are made for each.
"""

import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from migration_assets.domain.table_spec import TableSpec
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.stream import names_of, stream_names
from migration_assets.ledger.stream_parts import note_publication
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.stream.servers import note_pair
from migration_assets.stream.slots import create_slot, drop_slot
from migration_assets.stream.subscription import create_subscription, drop_subscription, legacy_conninfo
from migration_assets_tests.ground import SPEC, Ground

_SIDES: tuple[Side, Side] = ("legacy", "base")


@dataclass
class Clones:
    """Of one pair of servers."""

    servers: EmbeddedServers
    _made: set[str] = field(default_factory=set[str])

    @contextmanager
    def empty(self) -> Generator[Databases]:
        """A database on each server, with a name that no other test has; gone at the end with all that hangs on it."""
        with self._copies("empty") as databases:
            yield databases

    @contextmanager
    def streamed(self, rows: int) -> Generator[Databases]:
        """As `Ground.fill(rows).streamed()` makes them, the next key after the last row."""

        def make(ground: Ground) -> None:
            ground.fill(rows)
            ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), %s)", rows)
            ground.streamed()

        with self.grown(f"streamed_{rows}", make) as databases:
            yield databases

    @contextmanager
    def grown(self, template: str, make: Callable[[Ground], object], spec: TableSpec = SPEC) -> Generator[Databases]:
        """As `make` leaves two empty databases: with a live stream that nobody writes into.

        What the servers count of changes begins anew in a copy: no proof of the template counts there.

        Args:
            template: Its name; the same one is made once.
            make: Whatever it does to the ground is in every copy.
            spec: The table of the stream.
        """
        if template not in self._made:
            ground = Ground(self._fresh(template), spec)
            make(ground)
            _cut_off(ground)
        with self._copies(template) as databases:
            _subscribe(Ground(databases, spec))
            yield databases

    @contextmanager
    def made(self, template: str, make: Callable[[Databases], object]) -> Generator[Databases]:
        """As `make` leaves two empty databases, with neither slot nor subscription."""
        if template not in self._made:
            make(self._fresh(template))
        with self._copies(template) as databases:
            yield databases

    @contextmanager
    def _copies(self, template: str) -> Generator[Databases]:
        if template not in self._made:
            databases = self._fresh(template)
            for side in _SIDES:
                psycopg.connect(databases.url(side)).close()  # the first session writes a cache that is copied, too
        name = f"test_{secrets.token_hex(6)}"
        for side in _SIDES:
            with psycopg.connect(self.servers.address(side).url("postgres"), autocommit=True) as admin:
                admin.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                        sql.Identifier(name), sql.Identifier(template)
                    )
                )
        try:
            yield self._urls(name)
        finally:
            for side in reversed(_SIDES):  # the base first: its subscriptions take their slots on the legacy with them
                self.servers.drop_database(side, name)

    def _fresh(self, name: str) -> Databases:
        for side in _SIDES:
            self.servers.recreate_database(side, name)
        self._made.add(name)
        return self._urls(name)

    def _urls(self, name: str) -> Databases:
        return Databases(self.servers.legacy_url(name), self.servers.base_url(name))


def _cut_off(ground: Ground) -> None:
    """A database with a subscription or a slot cannot be copied."""
    names, databases = names_of(ground.stream_record()), ground.databases
    ground.drain()
    with databases.session("base", "test") as base, databases.session("legacy", "test") as legacy:
        drop_subscription(base, names.subscription)
        drop_slot(legacy, names.slot)


def _subscribe(ground: Ground) -> None:
    """The stream goes on in a copy, with parts of its own under names of its own: slots are those of a whole server."""
    databases, relation = ground.databases, ground.spec.relation
    former = names_of(ground.stream_record())
    with databases.session("base", "test") as base, databases.session("legacy", "test") as legacy:
        names = stream_names(base, relation)
        legacy.execute(
            sql.SQL("ALTER PUBLICATION {} RENAME TO {}").format(
                sql.Identifier(former.publication), sql.Identifier(names.publication)
            )
        )
        create_slot(legacy, names.slot)
        with base.transaction():
            note_pair(base, legacy, relation, "a test")
            base.execute(
                "UPDATE migration.streams SET publication = %s, slot = %s, subscription = %s WHERE relation = %s",
                [names.publication, names.slot, names.subscription, relation],
            )
            note_publication(base, legacy, relation, names.publication)
            conninfo = legacy_conninfo(legacy, databases.legacy_url, names.subscription)
            binary = require_table(legacy, ground.spec.table, "legacy").binary_copy
            create_subscription(base, names, conninfo, binary=binary)
