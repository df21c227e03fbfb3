"""How clients reach the embedded servers: addresses, databases, and the one password.

The password is made once and kept in a libpq password file only. A database can be dropped while clients, slots or
subscriptions use it.
"""

import os
import secrets
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.processes import ServerUser, own, wait_until

HOST = "127.0.0.1"
# Not the name of our schema: with "$user" in the search_path, tables made in psql would land in it.
SUPERUSER = "migrator"


def server_url(port: int, database: str, passfile: Path) -> str:
    """A libpq URL without a password in it; psycopg, SQLAlchemy, ADBC and subscriptions take it as it is."""
    name = urllib.parse.quote(database, safe="")
    return f"postgresql://{SUPERUSER}@{HOST}:{port}/{name}?passfile={urllib.parse.quote(str(passfile), safe='')}"


@dataclass(frozen=True)
class ServerAddress:
    """The address of a server. The password is in `passfile` only."""

    name: str
    host: str
    port: int
    version: str
    passfile: Path

    def url(self, database: str) -> str:
        """A libpq URL that names the password file instead of the password."""
        return server_url(self.port, database, self.passfile)


@dataclass(frozen=True)
class ServerStatus:
    """The present state of a server.

    Attributes:
        name: `legacy` or `base`.
        version: Full version such as `16.14`.
        port: The port that it keeps.
        pid: Of the postmaster; None when it does not accept connections.
        running: Whether it really accepts connections.
        data_folder: Absolute.
        size_bytes: Of the data folder, write-ahead log included.
    """

    name: str
    version: str
    port: int
    pid: int | None
    running: bool
    data_folder: Path
    size_bytes: int


def create_database(admin_url: str, name: str) -> None:
    """Make a database unless it exists.

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
    """Drop a database with its subscriptions and slots; nothing happens where it does not exist.

    Its subscriptions go first, together with their slots on the publisher where that can be reached. Its own slots go
    with it, as soon as their walsenders are gone.

    Args:
        admin_url: URL of the database `postgres` on the same server.
        database_url: URL of the database to drop.
        name: Its name.

    Raises:
        EmbeddedServerError: Clients are still connected after 20 s.
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
        # Closed even to superusers: otherwise a subscriber reconnects to its slot before the database is dropped.
        connection.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(identifier))
        if not wait_until(lambda: _clients_gone(connection, name), seconds=20):
            raise EmbeddedServerError(
                "clients are still connected after they were terminated",
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
        # A decommissioned legacy is read-only; and settings that a test gave the database must not end this session.
        connection.execute("SET default_transaction_read_only = off; SET exit_on_error = off; SET lock_timeout = 0")
        for subscription in subscriptions:
            identifier = sql.Identifier(subscription)
            connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(identifier))
            try:
                connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(identifier))
            except psycopg.Error:  # the publisher or the slot is gone: drop it without the slot
                connection.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(identifier))
                connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(identifier))


def ensure_password(file: Path, user: ServerUser | None) -> str:
    """Read the password from the file, which is made with a random password when it is missing.

    One line, `127.0.0.1:*:*:migration:<password>`, serves both clusters: when one moves to another port, no second file
    has to change with it. The server user owns the file, because a subscription's worker reads it as well.

    Raises:
        EmbeddedServerError: The file has no such line.
    """
    if not file.exists():
        write_secret(file, f"{HOST}:*:*:{SUPERUSER}:{secrets.token_urlsafe(24)}\n", user)
    host, _, rest = file.read_text(encoding="utf-8").strip().partition(":")
    fields = rest.split(":")
    if host != HOST or len(fields) != 4 or not fields[-1]:  # noqa: PLR2004 - port, database, user, password
        raise EmbeddedServerError(
            "the password file is damaged",
            where=str(file),
            state_left="the databases were not touched",
            next_step="restore the file; without it the data can only be deleted and made anew",
        )
    return fields[-1]


def write_secret(file: Path, text: str, user: ServerUser | None) -> None:
    """Write a file, whole or not at all, that only the server user (and root) can read at any moment."""
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.aside")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    own(aside, user)
    aside.replace(file)
