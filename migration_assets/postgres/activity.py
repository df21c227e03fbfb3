"""What sessions are doing now, as the server tells it: our own by their names, and those of others.

A session of others is told by who it is and what kind of command it runs. Its statement is never shown: it holds data.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.sessions import Connected, application_name

_PURPOSE = re.compile(r"^(FY\d+-Q\d\|W\d\d):([\w-]+)$")


@dataclass(frozen=True)
class Activity:
    """One slice at work: its phase, and rows and bytes so far while it is being copied."""

    week: FiscalWeek
    phase: str
    rows: int
    wire_bytes: int
    seconds: float


def current_activity(base: Connected) -> dict[FiscalWeek, Activity]:
    """The slices that sessions of this database work on now."""
    prefix = application_name("")
    found = base.execute(
        "SELECT a.application_name, coalesce(p.tuples_processed, 0), coalesce(p.bytes_processed, 0),"
        " extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.query_start))::float8"
        " FROM pg_stat_activity a LEFT JOIN pg_stat_progress_copy p USING (pid)"
        " WHERE a.datname = current_database() AND starts_with(a.application_name, %s)",
        [prefix],
    )
    activities: dict[FiscalWeek, Activity] = {}
    for name, rows, wire_bytes, seconds in found:
        match = _PURPOSE.match(str(name).removeprefix(prefix))
        if match:
            week = FiscalWeek.parse(match.group(1))
            activities[week] = Activity(week, match.group(2), int(rows), int(wire_bytes), float(seconds or 0.0))
    return activities


APPLICATION_NAME: LiteralString = (
    "coalesce(nullif(regexp_replace(a.application_name, '[^[:alnum:] _.:/#+=,|()-]+', '?', 'g'), ''), 'unnamed')"
)
APPLICATION = sql.SQL(APPLICATION_NAME)
"""The name of session `a` of pg_stat_activity, without what a chat, a page or a terminal would act upon."""

# Known words alone: what somebody typed into the wrong window may be a password.
_WORDS: LiteralString = (
    "abort|analyze|autovacuum|begin|call|checkpoint|close|cluster|comment|commit|copy|deallocate|declare|delete|discard|do"
    "|end|execute|explain|fetch|grant|import|insert|listen|load|lock|merge|move|notify|prepare|reassign|refresh|reindex"
    "|release|revoke|rollback|savepoint|security|select|set|show|start|table|truncate|unlisten|update|vacuum|values|with"
)
_KINDS: LiteralString = (
    "unique|index|concurrently|table|type|materialized|view|function|trigger|publication|subscription"
)
COMMAND = sql.SQL(
    "coalesce(upper(regexp_replace(substring(a.query FROM"
    " '(?i)^\\s*((?:create|alter|drop)(?:\\s+(?:_kinds))*\\M|(?:_words)\\M)'), '\\s+', ' ', 'g')),"
    " 'a command that cannot be told')".replace("_kinds", _KINDS).replace("_words", _WORDS)
)
"""The first word of what session `a` runs, or ran last; of a change to a definition the words that say of what kind."""


def shown(who: str, user: str, application: str, state: str, age: float | None, command: str) -> str:
    """One session for a list of them; `age` of its transaction in seconds, None where our role may not see it."""
    old = "of unknown age" if age is None else f"{age:,.1f} s old"
    return f"{who} ({user}, {application}, {state or '?'}), {old}: {command}"


def writers_of(
    connection: Connected, table: QualifiedName, *, older_than_ms: float, sees_autovacuum: bool
) -> Sequence[str]:
    """Who holds a lock on the table that its writers take, for how long, with what command; the oldest first.

    Args:
        connection: Where the table is.
        table: It, or a partition alone.
        older_than_ms: Younger ones are left out.
        sees_autovacuum: Whether the server's own maintenance counts.
    """
    rows = connection.execute(
        sql.SQL(
            "SELECT coalesce('backend ' || a.pid, 'prepared transaction ' || quote_literal(p.gid), 'a backend'),"
            " coalesce(a.usename::text, p.owner::text, '?'), {application}, coalesce(a.state, ''),"
            " extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS age,"
            " {command}"
            " FROM pg_locks k LEFT JOIN pg_stat_activity a USING (pid)"
            # A prepared transaction has no backend; what it locks has the lock on its number in common.
            " LEFT JOIN pg_locks x ON k.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'"
            "  AND x.virtualtransaction = k.virtualtransaction"
            " LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid"
            " WHERE k.locktype = 'relation' AND k.granted AND k.relation = to_regclass(%(table)s)"
            " AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND k.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',"
            " 'AccessExclusiveLock') AND k.pid IS DISTINCT FROM pg_backend_pid()"
            # Who is not in pg_read_all_stats sees no age: such a writer counts as young, else no cut was ever tried.
            " AND coalesce(a.xact_start, p.prepared, clock_timestamp())"
            "  <= clock_timestamp() - %(age)s * interval '1 ms'"
            " AND (%(vacuum)s OR a.backend_type IS DISTINCT FROM 'autovacuum worker'"
            "      OR a.query LIKE '%%to prevent wraparound%%') ORDER BY age DESC NULLS FIRST LIMIT 5"
        ).format(application=APPLICATION, command=COMMAND),
        {"table": str(table), "age": older_than_ms, "vacuum": sees_autovacuum},
    )
    return [shown(*row) for row in rows]
