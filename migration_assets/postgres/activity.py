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
    """One slice that a session works on now.

    Attributes:
        week: The slice.
        phase: What the session does, such as `copy` or `index`.
        rows: Rows copied so far; 0 outside of a COPY.
        wire_bytes: Bytes copied so far; 0 outside of a COPY.
        seconds: How long its transaction, or else its query, has been running.
    """

    week: FiscalWeek
    phase: str
    rows: int
    wire_bytes: int
    seconds: float


def current_activity(base: Connected) -> dict[FiscalWeek, Activity]:
    """The slices that sessions of the base's database work on now, by week."""
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
"""SQL: the application name of session `a` of pg_stat_activity, without control and markup characters."""

# Only known words are shown: a password typed into the wrong window is a statement, too.
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
"""SQL: the command that session `a` runs or ran last: its first word, or `CREATE INDEX` and the like for DDL."""


def shown(who: str, user: str, application: str, state: str, age: float | None, command: str) -> str:
    """One line that describes a session.

    Args:
        who: Its backend or prepared transaction.
        user: Its role.
        application: Its application name, cleaned as `APPLICATION` does.
        state: Of pg_stat_activity; may be empty.
        age: Of its transaction in seconds; None where our role may not see it.
        command: As `COMMAND` gives it.
    """
    old = "of unknown age" if age is None else f"{age:,.1f} s old"
    return f"{who} ({user}, {application}, {state or '?'}), {old}: {command}"


def writers_of(
    connection: Connected, table: QualifiedName, *, older_than_ms: float, sees_autovacuum: bool
) -> Sequence[str]:
    """The sessions that hold a writer's lock on the table, oldest transaction first, at most five.

    Args:
        connection: To the side that has the table.
        table: The table or one partition; locks on its other partitions do not count.
        older_than_ms: Transactions younger than this are left out.
        sees_autovacuum: Whether an autovacuum worker counts. One that prevents wraparound always does.

    Returns:
        One line for each session, as `shown` writes it.
    """
    rows = connection.execute(
        sql.SQL(
            "SELECT coalesce('backend ' || a.pid, 'prepared transaction ' || quote_literal(p.gid), 'a backend'),"
            " coalesce(a.usename::text, p.owner::text, '?'), {application}, coalesce(a.state, ''),"
            " extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS age,"
            " {command}"
            " FROM pg_locks k LEFT JOIN pg_stat_activity a USING (pid)"
            # A prepared transaction has no backend: it is found by the lock on its own transaction id.
            " LEFT JOIN pg_locks x ON k.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'"
            "  AND x.virtualtransaction = k.virtualtransaction"
            " LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid"
            " WHERE k.locktype = 'relation' AND k.granted AND k.relation = to_regclass(%(table)s)"
            " AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND k.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',"
            " 'AccessExclusiveLock') AND k.pid IS DISTINCT FROM pg_backend_pid()"
            # A role outside pg_read_all_stats sees no age. Such a writer counts as young: else no cut would be tried.
            " AND coalesce(a.xact_start, p.prepared, clock_timestamp())"
            "  <= clock_timestamp() - %(age)s * interval '1 ms'"
            " AND (%(vacuum)s OR a.backend_type IS DISTINCT FROM 'autovacuum worker'"
            "      OR a.query LIKE '%%to prevent wraparound%%') ORDER BY age DESC NULLS FIRST LIMIT 5"
        ).format(application=APPLICATION, command=COMMAND),
        {"table": str(table), "age": older_than_ms, "vacuum": sees_autovacuum},
    )
    return [shown(*row) for row in rows]
