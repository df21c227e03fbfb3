"""How a session is told in errors, findings and alerts: who it is and what kind of command it runs, never a statement.

Statements of others hold their data, and everybody chooses the name of his application himself.
"""

from typing import LiteralString

from psycopg import sql

from migration_assets.postgres.sessions import Connected

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


_HOLDER = sql.SQL("""
SELECT format('backend %s (role %s, connected since %s UTC, %s)', a.pid, coalesce(a.usename::text, '?'),
              coalesce((a.backend_start AT TIME ZONE 'UTC')::timestamp(0)::text, '?'), {application})
FROM pg_locks k JOIN pg_stat_activity a USING (pid)
WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 2 AND k.classid = {lock_class}
  AND k.objid::bigint = ({key})::bigint & 4294967295
  AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY k.mode LIMIT 1
""")


def lock_holder(connection: Connected, lock_class: int, key: sql.Composable) -> str:
    """Who has an advisory lock of this database; whoever may connect can take one, so the role is told, too.

    Args:
        connection: Any session on that database.
        lock_class: The first of the lock's two numbers.
        key: An expression for the second.
    """
    query = _HOLDER.format(application=APPLICATION, lock_class=sql.Literal(lock_class), key=key)
    row = connection.execute(query).fetchone()
    return str(row[0]) if row else "another session, which has just ended"


def shown(who: str, user: str, application: str, state: str, age: float | None, command: str) -> str:
    """One session for a list of them; `age` of its transaction in seconds, None where our role may not see it."""
    old = "of unknown age" if age is None else f"{age:,.1f} s old"
    return f"{who} ({user}, {application}, {state or '?'}), {old}: {command}"
