"""The subscription on the base, its apply worker, and why that worker ends again and again.

Only the server's log has the worker's message: no view does, in any version. What is shown of it are the words that
PostgreSQL itself wrote, and names of tables, columns and constraints; never a value of a row, which its messages quote
at their end.
"""

import csv
import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import Rollback, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migration_assets.domain.errors import StreamError
from migration_assets.ledger.stream import StreamNames
from migration_assets.ledger.stream_parts import altering_subscription
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.server_messages import shown_message
from migration_assets.postgres.sessions import Connected, require_row

_LEADER_PID_SINCE = 160000
_ORIGIN_SINCE = 160000
_FAILOVER_SINCE = 170000
# The statement contains the publisher's password. Servers log statements and parameters and show them to others. Rows
# of a COPY are neither logged nor shown, and neither is what a function executes: so the statement goes through a table
# by COPY and is executed by a function. The table is in our own schema, which needs no right to create temporary
# tables, and is dropped before the transaction ends. An error is raised anew, without the statement in its context.
_UNTOLD = """
CREATE UNLOGGED TABLE {schema}.subscribing (statement text);
CREATE FUNCTION {schema}.subscribe() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE (SELECT s.statement FROM {schema}.subscribing s);
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION USING MESSAGE = SQLERRM, ERRCODE = SQLSTATE;
END $$
"""


@dataclass(frozen=True)
class Worker:
    """The subscription now; `pid` is None while no apply worker runs."""

    enabled: bool
    pid: int | None


def apply_worker(base: Connected, subscription: str) -> Worker | None:
    """Return the state of this database's subscription of that name, or None if it does not exist."""
    # Parallel apply workers and table synchronization have rows of their own.
    leaders = sql.SQL("AND s.leader_pid IS NULL" if base.info.server_version >= _LEADER_PID_SINCE else "")
    row = base.execute(
        sql.SQL(
            "SELECT p.subenabled, s.pid FROM pg_subscription p"
            " LEFT JOIN pg_stat_subscription s ON s.subid = p.oid AND s.relid IS NULL {}"
            " WHERE p.subname = {} AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).format(leaders, sql.Literal(subscription))
    ).fetchone()
    return None if row is None else Worker(bool(row[0]), row[1])


def legacy_conninfo(legacy: Connected, url: str, name: str) -> str:
    """Return the conninfo with which the base's server reaches the legacy, including the password.

    The server has no password file of ours, so the password in use must be in the conninfo.

    Args:
        legacy: A session on the legacy; its password is used if `url` contains none.
        url: The legacy as the base's server reaches it.
        name: The `application_name` of the stream's WAL sender.
    """
    password = conninfo_to_dict(url).get("password") or legacy.info.password
    settings = {"application_name": name, "connect_timeout": "10"}
    return make_conninfo(url, **settings, **({"password": password} if password else {}))


def create_subscription(
    base: Connected, names: StreamNames, conninfo: str, *, binary: bool, failover: bool = False
) -> None:
    """Create an enabled subscription to the existing slot, in the caller's transaction; the worker starts at commit.

    Args:
        base: A session on the subscribing side.
        names: The names of publication, slot and subscription.
        conninfo: How the subscribing server reaches the publisher.
        binary: Whether rows are sent in binary format.
        failover: Whether the slot survives a failover. From version 17 on a subscription sets its slot to its own
            option.
    """
    options = [
        sql.SQL("create_slot = false, copy_data = false, enabled = true, slot_name = {}").format(
            sql.Literal(names.slot)
        ),
        sql.SQL("binary = {}").format(sql.SQL("true" if binary else "false")),
        # Version 18's default, `parallel`, lets the end of a large transaction pass a worker that waits at a marker
        # (seen in 5 of 5 runs).
        sql.SQL("streaming = on"),
        # It would also disable the stream on every lost connection.
        sql.SQL("disable_on_error = false"),
    ]
    if base.info.server_version >= _ORIGIN_SINCE:
        options.append(sql.SQL("origin = any, run_as_owner = false"))
    if failover and base.info.server_version >= _FAILOVER_SINCE:
        options.append(sql.SQL("failover = true"))
    statement = sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH ({})").format(
        sql.Identifier(names.subscription),
        sql.Literal(conninfo),
        sql.Identifier(names.publication),
        sql.SQL(", ").join(options),
    )
    with altering_subscription(base, names.subscription):
        execute_untold(base, statement, schema=own_schema(base))


def execute_untold(connection: Connected, statement: sql.Composed, *, schema: str) -> None:
    """Execute a statement that contains a password so that no server logs it, in the caller's transaction.

    Args:
        connection: The session to execute it in.
        statement: A statement that returns nothing.
        schema: Our own schema, where a table and a function are created and dropped again.
    """
    place = sql.Identifier(schema)
    connection.execute(sql.SQL(_UNTOLD).format(schema=place))
    with connection.cursor().copy(sql.SQL("COPY {}.subscribing FROM STDIN").format(place)) as copy:
        copy.write_row([statement.as_string(connection)])
    connection.execute(sql.SQL("SELECT {}.subscribe()").format(place))
    connection.execute(sql.SQL("DROP FUNCTION {0}.subscribe(); DROP TABLE {0}.subscribing").format(place))


def try_subscription(
    subscriber: Connected, names: StreamNames, conninfo: str, *, binary: bool, failover: bool = False
) -> None:
    """Subscribe and roll back, to test rights, password and the connection between the servers before relying on them.

    Args:
        subscriber: In no transaction.
        names: As for `create_subscription`; the slot must exist.
        conninfo: As for `create_subscription`.
        binary: As for `create_subscription`.
        failover: As for `create_subscription`.
    """
    with subscriber.transaction():
        create_subscription(subscriber, names, conninfo, binary=binary, failover=failover)
        raise Rollback


def enable(base: Connected, subscription: str) -> None:
    """Enable the subscription: the apply worker starts at the commit of the caller's transaction."""
    with altering_subscription(base, subscription):
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(subscription)))


def disable(base: Connected, subscription: str) -> None:
    """Disable the subscription: the apply worker ends after its current transaction."""
    with altering_subscription(base, subscription):
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(subscription)))


def drop_subscription(base: Connected, subscription: str) -> None:
    """Drop the subscription and its worker; `drop_slot` removes the slot on the legacy, which needs no worker."""
    name = sql.Identifier(subscription)
    with altering_subscription(base, subscription):
        if apply_worker(base, subscription) is None:
            return
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(name))
        base.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))


def require_enabled(worker: Worker | None, subscription: str) -> Worker:
    """Require that the subscription is there and enabled.

    Raises:
        StreamError: It was dropped or disabled by hand.
    """
    if worker is None:
        raise StreamError(
            "the subscription is gone: it was dropped by hand",
            where=subscription,
            state_left="the base is at the position where it stopped; the slot may still retain WAL on the legacy",
            next_step="materialize change_stream with rebuild set: a new slot, and every week trued up against it",
        )
    if not worker.enabled:
        raise StreamError(
            "the subscription was disabled by hand",
            where=subscription,
            state_left="the base is at the position where it stopped; the slot retains WAL on the legacy",
            next_step="run `migration-assets stream resume`",
        )
    return worker


_TAIL_BYTES = 256 * 1024
_CSV_SEVERITY, _CSV_MESSAGE, _CSV_CONTEXT = 11, 13, 18
# A conflict that the worker skips is logged, too, with the same context.
_NO_ERROR = re.compile(r"\b(LOG|WARNING|NOTICE|INFO|FATAL|PANIC|DEBUG\d?):  ")
log = logging.getLogger(__name__)


def read_worker_message(base: Connected, subscription: str) -> str | None:
    """Return the newest error of the subscription's worker that may be shown; None if none is found.

    Args:
        base: A session on the base. Reading the log takes `pg_monitor` and `pg_read_server_files`, or a superuser.
        subscription: Its name.
    """
    try:
        found = _log_tail(base)
        if found is None:
            return None
        form, text = found
        row = base.execute(
            "SELECT 'pg_' || oid FROM pg_subscription WHERE subname = %s"
            " AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [subscription],
        ).fetchone()
        return newest_message(form, text, str(row[0])) if row else None
    except psycopg.Error as error:
        if base.broken:
            raise
        log.info("the base's log could not be read: %s", error.diag.message_primary)
        return None


def newest_message(form: str, text: str, origin: str) -> str | None:
    """Return the newest showable error in a log that was written by the worker of this replication origin.

    Args:
        form: `stderr`, `csvlog` or `jsonlog`.
        text: The end of the log; its first line may be incomplete.
        origin: The subscription's origin, as the worker's context names it: `pg_16385`.
    """
    newest = None
    for message, context in _entries(form, text):
        if f'replication origin "{origin}"' in context:
            newest = shown_message(message) or newest
    return newest


def _log_tail(base: Connected) -> tuple[str, str] | None:
    row = base.execute(
        "SELECT has_function_privilege('pg_current_logfile(text)', 'EXECUTE')"
        " AND has_function_privilege('pg_stat_file(text)', 'EXECUTE')"
        " AND has_function_privilege('pg_read_binary_file(text, bigint, bigint)', 'EXECUTE')"
    ).fetchone()
    if not require_row(row, "a privilege")[0]:
        return None
    for form in ("jsonlog", "csvlog", "stderr"):
        row = base.execute("SELECT pg_current_logfile(%s)", [form]).fetchone()
        path = require_row(row, "the log's name")[0]
        if path is None:
            continue
        row = base.execute(
            "SELECT pg_read_binary_file(%(path)s, greatest(0, f.size - %(tail)s), %(tail)s)"
            " FROM pg_stat_file(%(path)s) f",
            {"path": path, "tail": _TAIL_BYTES},
        ).fetchone()
        return form, bytes(require_row(row, "the log")[0]).decode(errors="replace")
    return None


def _entries(form: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield message and context of each error, oldest first."""
    return {"jsonlog": _of_json, "csvlog": _of_csv, "stderr": _of_plain}[form](text)


def _of_json(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if not line.startswith("{"):
            continue  # the first line, cut in the middle
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the first line again, cut at a brace; or the last one, which is still being written
        if entry.get("error_severity") == "ERROR":
            yield str(entry.get("message", "")), str(entry.get("context", ""))


def _of_csv(text: str) -> Iterator[tuple[str, str]]:
    # One field, a statement, may be as long as the whole text that was read.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    for row in csv.reader(io.StringIO(text.partition("\n")[2])):
        if len(row) > _CSV_CONTEXT and row[_CSV_SEVERITY] == "ERROR":
            yield row[_CSV_MESSAGE], row[_CSV_CONTEXT]


def _of_plain(text: str) -> Iterator[tuple[str, str]]:
    message = ""
    for line in text.splitlines():
        # The server writes an error's lines at once, so they follow each other.
        _, found, said = line.partition("ERROR:  ")
        if found:
            message = said
            continue
        if _NO_ERROR.search(line):
            message = ""  # the context that follows belongs to this other message
            continue
        _, found, context = line.partition("CONTEXT:  ")
        if found:
            yield message, context
