"""The subscription on the base, and its apply worker."""

from dataclasses import dataclass

from psycopg import Rollback, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migration_assets.domain.errors import StreamError
from migration_assets.ledger.stream import StreamNames
from migration_assets.ledger.stream_parts import altering_subscription
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.sessions import Connected

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
        # It would disable the stream on every lost connection as well.
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
    """Gone afterwards, with its worker; the slot on the legacy is left to `drop_slot`, which needs no worker."""
    name = sql.Identifier(subscription)
    with altering_subscription(base, subscription):
        if apply_worker(base, subscription) is None:
            return
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(name))
        base.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))


def require_enabled(worker: Worker | None, subscription: str) -> Worker:
    """The subscription, which must be there and enabled.

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
