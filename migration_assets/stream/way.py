"""Whether one side's server reaches the very database that we reach as the other side, and would apply what it reads.

The URL with which the servers reach each other may be another one than ours, and the same text may mean another place
on another host. PostgreSQL does not say whom a subscription reaches, and one that follows a copy of the legacy looks
well for as long as nobody compares. What a database or a role is set to also reaches the servers' own replication
workers, which no session of ours sets.
"""

import secrets
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
from psycopg import Rollback, sql

from migration_assets.domain.errors import StreamError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.stream.subscription import execute_untold, legacy_conninfo

_PREFIX = "migration_assets_way"
_UNDEFINED_OBJECT = "42704"
_POLL_SECONDS = 0.0005
_TRIES = 10
_PARAMETER_RIGHTS_SINCE = 150000
_LEFT_BEHIND = r"""
SELECT pubname::text FROM pg_publication WHERE pubname ~ '^migration_assets_way_\d+_[0-9a-f]+$'
AND split_part(pubname, '_', 4)::int NOT IN (SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL)
"""

# A walsender of this database, not one of another database of the same server.
_ARRIVED = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"


def require_way(publisher: Connected, subscriber: Connected, url: str, *, to: Side) -> None:
    """Require that the subscriber's server reaches exactly the publisher's database, and no copy of it.

    An empty publication with a new random name is created on the publisher, and the subscriber's server must see it.
    The check is skipped if our role cannot keep the answer out of that server's log, see `may_ask_untold`.

    Args:
        publisher: In no transaction; if it is the legacy, the session has claimed it.
        subscriber: In no transaction.
        url: The publisher as the subscriber's server reaches it.
        to: The publisher's side.

    Raises:
        StreamError: The server reaches another database.
        psycopg.Error: It reaches none, or may not subscribe; the message contains no password.
    """
    drop_left_behind(publisher)
    if not may_ask_untold(subscriber):
        return
    mark = f"{_PREFIX}_{publisher.info.backend_pid}_{secrets.token_hex(6)}"
    publisher.execute(sql.SQL("CREATE PUBLICATION {}").format(sql.Identifier(mark)))
    try:
        there = finds_publication(subscriber, legacy_conninfo(publisher, url, mark), mark)
    finally:
        if not publisher.closed:
            publisher.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(mark)))
    if not there:
        reader = "base" if to == "legacy" else "legacy"
        raise StreamError(
            f"the {reader}'s server reaches another database than MIGRATION_{to.upper()}_URL leads to: a publication"
            " that was just made is not there",
            where=f"MIGRATION_{to.upper()}_URL_FOR_{reader.upper()}",
            state_left="nothing was changed",
            next_step=f"set MIGRATION_{to.upper()}_URL_FOR_{reader.upper()} to the {to} as the {reader}'s host reaches"
            " it (localhost is that host itself), and the same database; then run this again",
        )


def drop_left_behind(publisher: Connected) -> None:
    """Drop the empty publications that killed sessions left; one whose session lives stays."""
    for (left,) in publisher.execute(_LEFT_BEHIND).fetchall():
        publisher.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(left)))


def finds_publication(subscriber: Connected, conninfo: str, publication: str) -> bool:
    """Let the subscriber's server connect, in a transaction that is rolled back; whether it finds the publication.

    Args:
        subscriber: In no transaction; a session that may ask, see `may_ask_untold`.
        conninfo: How its server reaches the publisher.
        publication: The name to look for on the publisher.

    Raises:
        psycopg.Error: The server does not reach the publisher, or may not subscribe.
    """
    name = f"{_PREFIX}_{secrets.token_hex(6)}"
    statement = sql.SQL(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {}"
        " WITH (connect = true, create_slot = false, slot_name = NONE, enabled = false, copy_data = false)"
    ).format(sql.Identifier(name), sql.Literal(conninfo), sql.Identifier(publication))
    with _warnings(subscriber) as seen, subscriber.transaction():
        # The client may be set to hear no warnings. The server's log must not get the warning: it would log the
        # statement with it, and so the password.
        subscriber.execute("SET LOCAL client_min_messages = 'warning'")
        subscriber.execute("SET LOCAL log_min_messages = 'error'")
        subscriber.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        execute_untold(subscriber, statement, schema=name)
        raise Rollback
    return _UNDEFINED_OBJECT not in seen


def may_ask_untold(subscriber: Connected) -> bool:
    """Whether our role may keep a warning out of the server's log, which would get the password with it."""
    row = subscriber.execute(
        "SELECT has_parameter_privilege('log_min_messages', 'SET')"
        if subscriber.info.server_version >= _PARAMETER_RIGHTS_SINCE
        else "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    return bool(row and row[0])


def sees_way(publisher: Connected, subscriber: Connected, url: str) -> bool:
    """Whether the subscriber's connection is seen on the publisher, as in `require_way`, but without making anything.

    The connection lives for some milliseconds, so it is looked for several times: a yes is certain, a no nearly so.

    Args:
        publisher: May be read only.
        subscriber: In no transaction; a session that may ask, see `may_ask_untold`.
        url: The publisher as the subscriber's server reaches it.

    Raises:
        psycopg.Error: The subscriber's server reaches no server, or may not subscribe.
    """
    for _ in range(_TRIES):
        mark = f"{_PREFIX}_{secrets.token_hex(6)}"
        conninfo = legacy_conninfo(publisher, url, mark)
        with ThreadPoolExecutor(1, thread_name_prefix="way") as pool:
            trying = pool.submit(finds_publication, subscriber, conninfo, mark)
            while not trying.done():
                row = publisher.execute(_ARRIVED, [mark]).fetchone()
                if row is not None:
                    trying.result()
                    return True
                time.sleep(_POLL_SECONDS)
            trying.result()
    return False


@contextmanager
def _warnings(connection: Connected) -> Generator[list[str]]:
    """Collect the codes of the warnings that the server sends while the body runs."""
    seen: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING" and diagnostic.sqlstate:
            seen.append(diagnostic.sqlstate)

    connection.add_notice_handler(note)
    try:
        yield seen
    finally:
        connection.remove_notice_handler(note)


_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
# What each setting must be for an apply worker, and what happens otherwise.
_APPLYING: Mapping[str, tuple[str, str]] = {
    "lock_timeout": ("0", "it fails at every lock that it waits for, and at every cut, and starts again"),
    "transaction_timeout": ("0", "it fails in every transaction that takes longer, and starts it again forever"),
    "default_transaction_isolation": ("read committed", "it fails where another session changes the same row"),
    "default_transaction_read_only": ("off", "triggers that write fail, and the stream with them"),
    "array_nulls": ("on", "a NULL inside an array that arrives as text becomes the word NULL"),
    "xmloption": ("content", "an xml value without a single root is refused, and the stream stops"),
}
# Below this a walsender gives up on a base that is busy for a moment.
_SHORTEST_SENDER_TIMEOUT_MS = 5_000
# Both make damaged pages look empty: rows disappear, and a copy or a comparison does not notice that they existed.
_HIDING = ("zero_damaged_pages", "ignore_checksum_failure")


def examine_applying(connection: Connected, side: Side) -> list[Finding]:
    """Examine what an apply worker of our role gets on this side; `reset_val` is what a new session begins with."""
    found = _settings(connection, (*_APPLYING, *_HIDING))
    wrong = [
        Finding(
            f"apply_worker_{name}",
            _AREA[side],
            Severity.BLOCKING,
            f"{name} is {found[name]} for the {side}'s apply worker: {why}",
            _remedy(connection, name, wanted),
        )
        for name, (wanted, why) in _APPLYING.items()
        if name in found and found[name] != wanted
    ]
    wrong += _hidden(connection, side, found)
    if wrong:
        return wrong
    return [Finding("apply_worker_settings", _AREA[side], Severity.INFO, "no setting harms the apply worker")]


def examine_sending(connection: Connected, side: Side) -> list[Finding]:
    """Examine what a walsender of our role gets on this side."""
    found = _settings(connection, ("wal_sender_timeout", *_HIDING))
    wrong = list(_hidden(connection, side, found))
    timeout = int(found["wal_sender_timeout"])
    if 0 < timeout < _SHORTEST_SENDER_TIMEOUT_MS:
        evidence = f"wal_sender_timeout is {timeout} ms for the {side}'s walsender: it gives up on a busy subscriber"
        remedy = _remedy(connection, "wal_sender_timeout", "60s")
        wrong.append(Finding("walsender_timeout", _AREA[side], Severity.BLOCKING, evidence, remedy))
    return wrong or [Finding("walsender_settings", _AREA[side], Severity.INFO, f"wal_sender_timeout = {timeout} ms")]


def _hidden(connection: Connected, side: Side, found: Mapping[str, str]) -> Iterator[Finding]:
    for name in _HIDING:
        if found.get(name, "off") != "off":
            evidence = f"{name} is on for our sessions of the {side}: rows of damaged pages vanish without an error"
            yield Finding(name, _AREA[side], Severity.BLOCKING, evidence, _remedy(connection, name, "off"))


def _settings(connection: Connected, names: tuple[str, ...]) -> dict[str, str]:
    rows = connection.execute("SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)", [list(names)])
    return {str(name): str(value) for name, value in rows}


def _remedy(connection: Connected, name: str, value: str) -> str:
    """The statement that sets it for our role in this database alone; applications keep their own settings."""
    row = connection.execute("SELECT current_user::text, current_database()::text").fetchone()
    role, database = require_row(row, "the role")
    return f"ALTER ROLE {quote_identifier(role)} IN DATABASE {quote_identifier(database)} SET {name} = '{value}';"
