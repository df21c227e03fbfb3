"""Another migration's stream into our table: a real subscription of somebody else."""

import secrets
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import psycopg
from psycopg import sql

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Side
from migration_assets_tests.ground import Ground


@contextmanager
def stranger(ground: Ground, servers: EmbeddedServers, *sides: Side) -> Generator[Callable[[str], None]]:
    """Subscription `stranger` into the table of these sides; yields what sends a statement to all of them.

    Each has its publisher on the other server: a subscription within one server waits for itself.
    """
    name = f"test_stranger_{secrets.token_hex(4)}"
    publishers: list[psycopg.Connection[tuple[object, ...]]] = []
    with ExitStack() as stack:
        for side in sides:
            other: Side = "base" if side == "legacy" else "legacy"
            servers.recreate_database(other, name)
            stack.callback(servers.drop_database, other, name)
            url = servers.base_url(name) if other == "base" else servers.legacy_url(name)
            publisher = stack.enter_context(psycopg.connect(url, autocommit=True))
            publisher.execute(
                "CREATE TABLE public.bookings (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL, guests int,"
                " price numeric, note text); CREATE PUBLICATION elsewhere FOR TABLE bookings"
            )
            publishers.append(publisher)
            client = stack.enter_context(psycopg.connect(ground.databases.url(side), autocommit=True))
            client.execute(
                sql.SQL(
                    "CREATE SUBSCRIPTION stranger CONNECTION {} PUBLICATION elsewhere"
                    " WITH (copy_data = false, slot_name = {})"
                ).format(url, f"stranger_{secrets.token_hex(4)}")
            )
            stack.callback(client.execute, "DROP SUBSCRIPTION stranger")

        def send(statement: str) -> None:
            for publisher in publishers:
                publisher.execute(statement.encode())

        yield send


def errors_of_stranger(ground: Ground, side: Side) -> int:
    return ground.one(side, "SELECT s.apply_error_count FROM pg_stat_subscription_stats s JOIN pg_subscription p"
                      " ON p.oid = s.subid WHERE p.subname = 'stranger' AND p.subdbid ="
                      " (SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip
