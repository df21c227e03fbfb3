"""Other people's publications and subscriptions of the same tables, which come and go.

The third database lies on the base's server. What it feeds into the legacy is a writer's as any other's.
"""

import time
from dataclasses import dataclass

import psycopg
from psycopg import sql

from migration_assets_tests.adversarial.mob import Deed, Mob
from migration_assets_tests.adversarial.strangers import FIRST_STRANGE, instant
from migration_assets_tests.adversarial.table import DDL_OF_A_COPY, WEEKS, Side, ask, row_text, run, session

_BRIEF = {"lock_timeout": "500ms", "statement_timeout": "5s"}
_TABLE = "public.bookings"
_PUBLICATIONS = (
    "FOR ALL TABLES",
    "FOR TABLES IN SCHEMA public",
    "FOR TABLES IN SCHEMA migration",
    f"FOR TABLE {_TABLE}",
    f"FOR TABLE {_TABLE} (id, booked_at) WITH (publish = 'insert')",
    f"FOR TABLE {_TABLE} WHERE (guests > 3) WITH (publish = 'insert, truncate')",
    # With the whole row as identity, every UPDATE and DELETE of the applications fails while it is there.
    f"FOR TABLE {_TABLE} (id, guests)",
)
REFUSED_TO_APPLICATIONS = (
    psycopg.errors.InvalidColumnReference,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.InFailedSqlTransaction,
)
"""What applications meet where a stranger's publication does not have every column of the identity."""


def publication(mob: Mob) -> str:
    """On either side, for a while."""
    side: Side = mob.random.choice(["legacy", "legacy", "base"])
    what, name = mob.random.choice(_PUBLICATIONS), f"foreign_{mob.number()}"
    run(mob.world.url(side), f"CREATE PUBLICATION {name} {what}", **_BRIEF)
    mob.later(1.0, lambda: run(mob.world.url(side), f"DROP PUBLICATION {name}"))
    return f"{what} on the {side}"


@dataclass
class ThirdDatabase:
    """A database of somebody else's with a table of that name; it is there as long as the mob needs it."""

    mob: Mob
    name: str

    @property
    def url(self) -> str:
        return self.mob.world.servers.base_url(self.name)


def third_database(mob: Mob) -> ThirdDatabase:
    """Made at its first use."""
    if mob.third is None:
        mob.third = f"{mob.world.base_url.rsplit('/', 1)[-1].split('?')[0]}_third"
        mob.world.servers.recreate_database("base", mob.third)
        run(ThirdDatabase(mob, mob.third).url, *DDL_OF_A_COPY)
    return ThirdDatabase(mob, mob.third)


def gone(mob: Mob) -> None:
    """The third database is there no more."""
    if mob.third is not None:
        mob.world.servers.drop_database("base", mob.third)
        mob.third = None


def subscriber(mob: Mob) -> str:
    """Reads all tables of the legacy, and stands at the first one that it does not have."""
    third, name = third_database(mob), f"{mob.world.base_url.rsplit('/', 1)[-1].split('?')[0]}_{mob.number()}"
    everything = mob.random.random() < 0.5
    run(mob.world.legacy_url, f"CREATE PUBLICATION {name} FOR {'ALL TABLES' if everything else f'TABLE {_TABLE}'}",
        **_BRIEF)  # fmt: skip
    mob.later(1.5, lambda: run(mob.world.legacy_url, f"DROP PUBLICATION {name}"))
    _subscribe(third.url, mob.world.legacy_url, name)
    mob.closing.insert(0, (time.monotonic() + 1.0, lambda: _unsubscribe(third.url, name)))
    return "of everything" if everything else "of the table"


def feeder(mob: Mob) -> str | None:
    """Another subscription brings a row into the legacy: its worker is a writer that no ordinary trigger sees."""
    if mob.world.side != "legacy":
        return None
    third, key = third_database(mob), FIRST_STRANGE + mob.number()
    name = f"{mob.world.base_url.rsplit('/', 1)[-1].split('?')[0]}_{mob.number()}"
    run(third.url, f"CREATE PUBLICATION {name} FOR TABLE {_TABLE}")
    # What the third database has from the legacy itself must not come back: it would bring deleted rows again.
    _subscribe(mob.world.legacy_url, third.url, name, origin="none")
    try:
        with session(third.url) as connection:
            rows = connection.execute(
                sql.SQL(
                    "INSERT INTO public.bookings AS b (id, booked_at, guests, note) VALUES (%s, %s, 3, 'fed')"
                    " RETURNING b.id, {}"
                ).format(row_text()),
                [key, instant(mob, mob.random.choice(WEEKS))],
            ).fetchall()
        changes = {int(found): str(text) for found, text in rows}
        mob.world.journal.lost(changes)  # whether it gets there is not known before it is seen
        give_up = time.monotonic() + 5.0
        while time.monotonic() < give_up:
            if ask(mob.world.legacy_url, "SELECT FROM public.bookings WHERE id = %s", key):
                mob.world.journal.commit("legacy", changes)
                return f"{key} has come"
            time.sleep(0.02)
    finally:
        _unsubscribe(mob.world.legacy_url, name)
        run(third.url, f"DROP PUBLICATION {name}")
    return f"{key} has not come"


def _subscribe(url: str, publisher: str, name: str, origin: str = "any") -> None:
    """Its slot waits for open transactions, but not for long."""
    with session(publisher, "outsider", **_BRIEF) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    run(
        url,
        f"CREATE SUBSCRIPTION {name} CONNECTION '{publisher.replace(chr(39), chr(39) * 2)}' PUBLICATION {name}"
        f" WITH (create_slot = false, slot_name = {name}, copy_data = false, origin = {origin})",
    )


def _unsubscribe(url: str, name: str) -> None:
    run(url, f"DROP SUBSCRIPTION IF EXISTS {name}")


OUTSIDERS: tuple[Deed, ...] = (publication, publication, subscriber, feeder)
