"""Databases on an embedded server: made, and dropped even while they are in use by clients, slots or subscriptions."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.processes import wait_until


def create_database(admin_url: str, name: str) -> None:
    """Make a database unless it is there.

    Args:
        admin_url: URL of the database `postgres` on the server.
        name: Name of the database to make.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.DuplicateDatabase:
            return


def drop_database(admin_url: str, database_url: str, name: str) -> None:
    """Drop a database with everything that hangs on it; nothing happens when it is not there.

    Its subscriptions go first, together with their slots on the publisher where that can be reached. Its own slots go
    with it, as soon as their walsenders are gone.

    Args:
        admin_url: URL of the database `postgres` on the same server.
        database_url: URL of the database to drop.
        name: Its name.

    Raises:
        EmbeddedServerError: Something still holds it after 20 s.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            return
        identifier = sql.Identifier(name)
        # An earlier drop that was interrupted may have left it closed.
        connection.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true").format(identifier))
        found = connection.execute(
            "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE datname = %s", [name]
        )
        _drop_subscriptions(database_url, [str(row[0]) for row in found])
        # Closed even to superusers: else a subscriber reconnects to its slot faster than the database is dropped.
        connection.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(identifier))
        if not wait_until(lambda: _clients_gone(connection, name), seconds=20):
            raise EmbeddedServerError(
                "its clients do not go away",
                where=f"database {name}",
                state_left="the database is complete, but closed to new connections",
                next_step="stop the servers with mode immediate, start them, then drop it again",
            )
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def _clients_gone(connection: psycopg.Connection, name: str) -> bool:
    rows = connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    return not rows.fetchall()


def _drop_subscriptions(database_url: str, subscriptions: Sequence[str]) -> None:
    if not subscriptions:
        return
    with psycopg.connect(database_url, autocommit=True, client_encoding="UTF8") as connection:
        # A decommissioned legacy is read-only; and what a test has set the database to must not end this session.
        connection.execute("SET default_transaction_read_only = off; SET exit_on_error = off; SET lock_timeout = 0")
        for subscription in subscriptions:
            identifier = sql.Identifier(subscription)
            connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(identifier))
            try:
                connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(identifier))
            except psycopg.Error:  # the publisher or the slot is gone: let go of it without asking there
                connection.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(identifier))
                connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(identifier))
