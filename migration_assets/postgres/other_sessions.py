"""How a session is told in errors, findings and alerts: who it is and what kind of command it runs, never a statement.

Statements of others hold their data, and everybody chooses the name of his application himself.
"""

from typing import LiteralString

from psycopg import sql

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
