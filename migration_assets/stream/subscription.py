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
# The statement holds the publisher's password. Servers log statements and their parameters, and show them to others;
# what a COPY brings is neither logged nor shown, nor is what a function runs. A table in our own schema needs no right
# to make temporary ones; nobody ever sees it, since it is gone before the transaction ends. An error is raised anew,
# without the statement in its context.
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
    """What the base says of the subscription of this database, or None where there is none of that name."""
    # Parallel apply workers and table synchronisation have rows of their own.
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
    """How the base's server reaches the legacy: with the password in use, since it has no password file of ours.

    Args:
        legacy: A session on the legacy: its password is taken where `url` names none.
        url: The legacy as the base's server sees it.
        name: The `application_name` of the stream's WAL sender.
    """
    password = conninfo_to_dict(url).get("password") or legacy.info.password
    settings = {"application_name": name, "connect_timeout": "10"}
    return make_conninfo(url, **settings, **({"password": password} if password else {}))


def create_subscription(
    base: Connected, names: StreamNames, conninfo: str, *, binary: bool, failover: bool = False
) -> None:
    """Subscribe to the slot that is there, enabled: the worker starts with the commit. In the caller's transaction.

    Args:
        base: Who subscribes.
        names: Of the three parts.
        conninfo: How its server reaches the publisher.
        binary: Whether rows travel as bytes.
        failover: Whether the slot is one that outlives a failover. From 17 on a subscription sets its slot to what it
            says itself.
    """
    options = [
        sql.SQL("create_slot = false, copy_data = false, enabled = true, slot_name = {}").format(
            sql.Literal(names.slot)
        ),
        sql.SQL("binary = {}").format(sql.SQL("true" if binary else "false")),
        # 18's default, parallel, lets a large transaction's end pass a worker that waits at a marker (5 of 5).
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
    """Execute what holds a password, so that no server logs it; in the caller's transaction.

    Args:
        connection: Where.
        statement: It returns nothing.
        schema: Ours, where two things are made and dropped again.
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
    """Subscribe and roll back: rights, the password and the way from server to server, before anything rests on them.

    Args:
        subscriber: In no transaction.
        names: As for `create_subscription`, and so on; the slot must be there.
        conninfo: The same.
        binary: The same.
        failover: The same.
    """
    with subscriber.transaction():
        create_subscription(subscriber, names, conninfo, binary=binary, failover=failover)
        raise Rollback


def enable(base: Connected, subscription: str) -> None:
    """Let the apply worker run; with the caller's transaction."""
    with altering_subscription(base, subscription):
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(subscription)))


def disable(base: Connected, subscription: str) -> None:
    """Let the apply worker end after the transaction that it is in."""
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
        StreamError: It was dropped or disabled behind our back.
    """
    if worker is None:
        raise StreamError(
            "the subscription is gone: it was dropped by hand",
            where=subscription,
            state_left="the base stands where it stopped; the slot may still keep WAL on the legacy",
            next_step="materialize change_stream with rebuild set: a new slot, and every week trued up against it",
        )
    if not worker.enabled:
        raise StreamError(
            "the subscription was disabled by hand",
            where=subscription,
            state_left="the base stands where it stopped; the slot keeps WAL on the legacy",
            next_step="run `migration-assets stream resume`",
        )
    return worker


_TAIL_BYTES = 256 * 1024
_CSV_SEVERITY, _CSV_MESSAGE, _CSV_CONTEXT = 11, 13, 18
# A conflict that the worker skips is logged, too, with the same context.
_NO_ERROR = re.compile(r"\b(LOG|WARNING|NOTICE|INFO|FATAL|PANIC|DEBUG\d?):  ")
log = logging.getLogger(__name__)


def read_worker_message(base: Connected, subscription: str) -> str | None:
    """The newest error of the subscription's worker that may be shown; None where the log says nothing or is not ours.

    Args:
        base: A session there. Reading the log takes `pg_monitor` and `pg_read_server_files`, or a superuser.
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
    """The newest message of a log that the worker of this origin wrote and that may be shown.

    Args:
        form: `stderr`, `csvlog` or `jsonlog`.
        text: The end of the log; its first line may be a part of one.
        origin: Of the subscription, as the worker's context names it: `pg_16385`.
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
    """Message and context of each error, oldest first."""
    return {"jsonlog": _of_json, "csvlog": _of_csv, "stderr": _of_plain}[form](text)


def _of_json(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if not line.startswith("{"):
            continue  # the first line, cut in two
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the same, cut at a brace; or the last line, which is being written
        if entry.get("error_severity") == "ERROR":
            yield str(entry.get("message", "")), str(entry.get("context", ""))


def _of_csv(text: str) -> Iterator[tuple[str, str]]:
    # A statement may be as long as all that was read.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    for row in csv.reader(io.StringIO(text.partition("\n")[2])):
        if len(row) > _CSV_CONTEXT and row[_CSV_SEVERITY] == "ERROR":
            yield row[_CSV_MESSAGE], row[_CSV_CONTEXT]


def _of_plain(text: str) -> Iterator[tuple[str, str]]:
    message = ""
    for line in text.splitlines():
        # An error's lines stand together: the server writes them at once.
        _, found, said = line.partition("ERROR:  ")
        if found:
            message = said
            continue
        if _NO_ERROR.search(line):
            message = ""  # the context that follows is not the error's
            continue
        _, found, context = line.partition("CONTEXT:  ")
        if found:
            yield message, context
