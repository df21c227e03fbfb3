"""Opens sessions on the legacy and the base; every setting that changes what they see or do is set explicitly."""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migration_assets.domain.errors import LedgerError, MigrationError, PoolerError, ServerChangedError, SettingsError
from migration_assets.domain.evidence_chain import Doer
from migration_assets.domain.schema_name import DEFAULT_SCHEMA
from migration_assets.postgres.own_schema import (
    FINDS_OURS,
    Connected,
    OwnConnection,
    OwnCursor,
    OwnServerCursor,
    require_no_other,
)
from migration_assets.postgres.server_messages import conceal, mark_side

log = logging.getLogger(__name__)
Side = Literal["legacy", "base"]

# The text output of a value must be the same on both sides and in every session: fingerprints of types without an exact
# binary form are computed from it.
_CANONICAL: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    # Unqualified names are the system's, so that no object of a user's schema is used by accident.
    "search_path": "pg_catalog",
    "standard_conforming_strings": "on",
    # Names of types are compared as texts, and given to drivers.
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "transform_null_equals": "off",
}
# A database or a role may have other defaults, which would change what our statements do.
_PLAIN: Mapping[str, str] = {
    # Where row security applies to our role: an error instead of fewer rows.
    "row_security": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "gin_fuzzy_search_limit": "0",
    "exit_on_error": "off",
    # It is on by default. Our catalogue queries are long, and each would be compiled for seconds (80 of the 83 s of a
    # stream's start on a busy machine), also while writes are held.
    "jit": "off",
}
_TRANSACTION_TIMEOUT_SINCE = 170_000
# Only superusers may set it, even to its present value; so it is set only where it differs.
_FIRE_TRIGGERS = sql.SQL(
    "SELECT pg_catalog.set_config('session_replication_role', 'origin', false)"
    " WHERE pg_catalog.current_setting('session_replication_role') <> 'origin'"
)
# A database's owner may set a role for all who connect. A superuser's session would then act as that role and trust the
# owner's objects as its own; the owner's triggers could switch back to the superuser's rights. A role that is set for
# our login itself is kept: a login that works as a group role is common.
OWN_ROLE = sql.SQL(
    "SELECT pg_catalog.set_config('role', 'none', false) WHERE current_user OPERATOR(pg_catalog.<>) session_user"
    " AND EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c"
    " WHERE pg_catalog.starts_with(c, 'role=') AND s.setrole OPERATOR(pg_catalog.=) 0::pg_catalog.oid"
    " AND s.setdatabase OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d"
    " WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))"
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c,"
    " pg_catalog.pg_roles r WHERE pg_catalog.starts_with(c, 'role=') AND r.rolname OPERATOR(pg_catalog.=) session_user"
    " AND s.setrole OPERATOR(pg_catalog.=) r.oid)"
)

# Sent before the first setting and in the same message: a pooler lends us sessions that others use afterwards, and our
# settings would stay on them. In its own transaction, because a query may wait for a safe snapshot where the defaults
# are serializable, read only and deferrable. With qualified operators, because the search path is not ours yet.
_NO_POOLER = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE;"
    " SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {})::pg_catalog.int4; COMMIT"
)


@dataclass(frozen=True)
class Timeouts:
    """Timeouts of a session in milliseconds, 0 for none; `client_check`: how often a busy server checks our socket."""

    lock: int = 10_000
    statement: int = 60_000
    idle_in_transaction: int = 60_000
    client_check: int = 2_000


# Presets, so that alike work waits alike. For a look, which must neither wait nor be waited for.
LOOK = Timeouts(lock=2_000, statement=15_000, idle_in_transaction=30_000)
# For examinations: one statement at a time is bounded, and a session may idle while the other side is examined.
EXAMINATION = Timeouts(lock=2_000, statement=60_000, idle_in_transaction=900_000)
# For a person who waits for an answer: somebody else's work on the same thing is told soon.
ATTENDED = Timeouts(lock=5_000)
# For work on many rows, which takes as long as it takes.
BULK = Timeouts(statement=0, idle_in_transaction=0)


@dataclass(frozen=True)
class Databases:
    """The two databases. The URLs may hold passwords and so never appear in a repr, an error or a log."""

    legacy_url: str = field(repr=False)
    base_url: str = field(repr=False)
    doer: Doer | None = None
    """The person or process that the ledger names for what these sessions do."""
    own_schema: str = DEFAULT_SCHEMA
    """The name of our schema, on both sides."""

    def url(self, side: Side) -> str:
        """The connection URL of one side."""
        return self.legacy_url if side == "legacy" else self.base_url

    def connect(self, side: Side, purpose: str, timeouts: Timeouts) -> Connected:
        """Open an autocommit session, which the caller closes; unlike `session` it does not refuse a standby."""
        connection = connect(self.url(side), purpose, timeouts, doer=self.doer, own_schema=self.own_schema, side=side)
        if not connection.finds_ours:
            try:
                require_no_other(connection, side)
            except BaseException:
                connection.close()
                raise
        if side == "base":
            connection.look = self._look_at_legacy
        return connection

    def _look_at_legacy(self) -> None:
        try:
            self.connect("legacy", "first look", Timeouts()).close()
        except LedgerError:
            raise
        except (psycopg.Error, MigrationError):
            log.info("the legacy could not be looked at")  # a step that needs it raises the error itself

    @contextmanager
    def session(
        self, side: Side, purpose: str, timeouts: Timeouts | None = None, *, or_standby: bool = False
    ) -> Generator[Connected]:
        """Open an autocommit session that is closed at the end in any case; an open transaction is rolled back.

        Args:
            side: Which database.
            purpose: Shown as `application_name`, after `migration_assets:`; at most 45 bytes of it are visible.
            timeouts: The defaults suit short catalogue queries.
            or_standby: Whether a standby is accepted, for callers that report it themselves.

        Raises:
            SettingsError: The URL cannot be read, or leads to a pooler.
            LedgerError: Our tables are there in another schema than the setting names.
            ServerChangedError: A standby answers.
            psycopg.OperationalError: The server cannot be reached; its text holds host and port, never a password.
            psycopg.Error: What the body raised; its text holds no value of a row.
        """
        connection = self.connect(side, purpose, timeouts or Timeouts())
        try:
            if not or_standby and is_standby(connection):
                raise standby_answers(connection, side)
            yield connection
        except psycopg.Error as error:
            conceal(error)
            raise
        finally:
            connection.close()


def is_standby(connection: Connected) -> bool:
    """Whether the server was a standby when the session began; it reports that itself, so no query is sent."""
    return connection.info.parameter_status("in_hot_standby") == "on"


def standby_answers(connection: Connected, side: Side) -> ServerChangedError:
    """The error of a step that needs the primary, where a standby answers."""
    return ServerChangedError(
        f"a standby answers as the {side}: it takes no writes and may lag behind",
        where=f"{connection.info.dbname} on {connection.info.host}:{connection.info.port}",
        state_left="nothing was touched",
        next_step=f"let the {side}'s URL lead to the primary (of several hosts: with"
        " target_session_attrs=read-write); if this standby is to become the primary, promote it first",
    )


def canonical_options() -> str:
    """The settings of text output as libpq's `options`, for drivers that send queries before we can set anything."""
    settings = {**_CANONICAL, "row_security": "off", "jit": "off"}
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())


def set_limits(
    connection: Connected,
    *,
    lock: float | None = None,
    statement: float | None = None,
    idle_in_transaction: float | None = None,
    whole_session: bool = False,
) -> None:
    """Change the session's timeouts until the transaction ends, or until they are changed again.

    It runs a SELECT, which takes a snapshot: where a snapshot is imported next, SET must be used instead.

    Args:
        connection: In a transaction, unless it is for the whole session.
        lock: Milliseconds that a statement waits for a lock; 0 for as long as it takes.
        statement: Milliseconds that a statement may take; 0 for as long as it takes.
        idle_in_transaction: Milliseconds that the session may be idle in a transaction; 0 for as long as it likes.
        whole_session: Whether they outlive the transaction.
    """
    wanted = {
        "lock_timeout": lock,
        "statement_timeout": statement,
        "idle_in_transaction_session_timeout": idle_in_transaction,
    }
    for name, limit in wanted.items():
        if limit is not None:
            # What is over is not what never ends.
            value = f"{0 if limit == 0 else max(1, round(limit))}ms"
            connection.execute("SELECT set_config(%s, %s, %s)", [name, value, not whole_session])


def session_settings(purpose: str, timeouts: Timeouts, server_version: int) -> dict[str, str]:
    """The settings of every session of ours, with any driver.

    Args:
        purpose: Shown as `application_name`.
        timeouts: Of the session.
        server_version: Such as 180004.
    """
    settings = {
        **_CANONICAL,
        **_PLAIN,
        "application_name": application_name(purpose),
        "lock_timeout": str(timeouts.lock),
        "statement_timeout": str(timeouts.statement),
        "idle_in_transaction_session_timeout": str(timeouts.idle_in_transaction),
        # A session that only holds a lock, while other sessions work, is idle by design.
        "idle_session_timeout": "0",
        # Without it the server goes on building an index for a client that was killed.
        "client_connection_check_interval": str(timeouts.client_check),
    }
    if server_version >= _TRANSACTION_TIMEOUT_SINCE:
        settings["transaction_timeout"] = "0"
    return settings


def connect(
    url: str,
    purpose: str,
    timeouts: Timeouts,
    *,
    replication: bool = False,
    doer: Doer | None = None,
    own_schema: str = DEFAULT_SCHEMA,
    side: str | None = None,
) -> OwnConnection:
    """Open one session; see `Databases.session`.

    Args:
        url: The database.
        purpose: Shown as `application_name`.
        timeouts: Of the session.
        replication: Whether to open a walsender session, which takes replication commands.
        doer: Whom the ledger names for what is done in the session.
        own_schema: The name of our schema there.
        side: `legacy` or `base`, to mark errors with; None for neither.
    """
    require_readable(url)
    try:
        connection = OwnConnection.connect(
            make_conninfo(url, replication="database") if replication else url,
            autocommit=True,
            connect_timeout=10,
            client_encoding="UTF8",
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            cursor_factory=OwnCursor,
        )
    except psycopg.Error as error:
        mark_side(error, side)
        raise
    connection.server_cursor_factory = OwnServerCursor
    connection.own_schema, connection.side = own_schema, side
    try:
        settings = session_settings(purpose, timeouts, connection.info.server_version)
        if doer is not None:
            settings["migration_assets.doer"] = doer.as_json()
        connection.finds_ours = prepare_session(connection, settings)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare_session(connection: Connected, settings: Mapping[str, str]) -> bool:
    """Give a new session its settings, in one message to the server.

    Returns:
        Whether the configured schema holds our tables.

    Raises:
        PoolerError: A pooler is in between; no setting was made.
        SettingsError: Our role has a session_replication_role that fires no triggers, and may not change it.
    """
    # SET, because set_config is a query, and a query would wait for a safe snapshot where the defaults are
    # serializable, read only and deferrable.
    statements = [
        sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in settings.items()
    ]
    try:
        direct = _NO_POOLER.format(sql.Literal(connection.info.backend_pid))
        cursor = connection.execute(
            sql.SQL("; ").join([direct, *statements, OWN_ROLE, _FIRE_TRIGGERS, sql.SQL(FINDS_OURS)])
        )
    except (errors.DivisionByZero, errors.ProtocolViolation):  # the second from a pooler in statement mode
        raise PoolerError(
            "a pooler answers in place of the server: the session's process is not the announced one",
            where=f"{connection.info.host}, port {connection.info.port}",
            state_left="nothing was touched, and no setting stays on the pooler's sessions",
            next_step="give the server's own host and port in the connection URL: sessions of a pooler lose their locks"
            " and settings, or leave them to others",
        ) from None
    except errors.InsufficientPrivilege as error:
        raise SettingsError(
            f"a setting of the session was refused: {error.diag.message_primary}",
            where="session_replication_role",
            state_left="nothing was touched",
            next_step="the role is set to another value than origin: ALTER ROLE … RESET session_replication_role (or"
            " ALTER DATABASE …), since our own guards are triggers",
        ) from None
    while cursor.nextset():
        pass
    return bool(require_row(cursor.fetchone(), "a session's first message")[0])


def require_readable(url: str) -> None:
    """Refuse a URL that cannot be parsed or whose host contains an `@`: libpq's error would quote the password.

    Raises:
        SettingsError: Says what to write instead, and quotes nothing of the URL.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        parts = None
    if parts is None or "@" in str(parts.get("host", "")):
        raise SettingsError(
            "the connection URL cannot be read",
            where="settings",
            state_left="nothing was touched",
            next_step="write special characters of user and password percent-encoded: @ as %40, / as %2F, % as %25",
        )


def application_name(purpose: str) -> str:
    """The name that `pg_stat_activity` shows; PostgreSQL keeps 63 bytes of it."""
    return f"migration_assets:{purpose}"


def announce(connection: Connected, purpose: str) -> None:
    """Show in `application_name` what the session is doing; others see it at once, even inside a transaction."""
    connection.execute("SELECT pg_catalog.set_config('application_name', %s, false)", [application_name(purpose)])


def uncounted(connection: Connected) -> None:
    """Keep this session's reads out of the server's table statistics, where its role may.

    For our own reads of the legacy, so that the search for its readers does not find us. Never for a session that
    writes: autovacuum would not see that. A role needs `GRANT SET ON PARAMETER track_counts`, or is a superuser.
    """
    connection.execute(
        "SELECT set_config('track_counts', 'off', false) WHERE has_parameter_privilege('track_counts', 'SET')"
    )


def require_row(row: tuple[Any, ...] | None, what: str) -> tuple[Any, ...]:
    """The row of a query that always returns one; `what` names it in the error."""
    if row is None:
        raise MigrationError(f"{what} returned no row", next_step="report this: it is a fault of this program")
    return row
