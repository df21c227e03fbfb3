"""The name of the schema in which this program keeps what is its own, on both servers.

Every text of ours calls it `migration`, statements, functions and advice alike. Where a team has given it another name,
the texts are renamed on their way: `renamed` does it, and nothing else.
"""

import re
from functools import lru_cache

DEFAULT_SCHEMA = "migration"
_LONGEST = 48
"""Characters, so that the name of the quarantine stays within the 63 that PostgreSQL keeps."""
_PLAIN = re.compile(rf"[a-z][a-z0-9_]{{0,{_LONGEST - 1}}}")
# Words that PostgreSQL takes for no name (pg_get_keywords, classes R and T; a test compares them with the servers).
# With them a name would need quotes, which the name of a setting cannot have.
_RESERVED = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation column
concurrently constraint create cross current_catalog current_date current_role current_schema current_time
current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze from
full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit localtime
localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references returning
right select session_user similar some symmetric system_user table tablesample then to trailing true union unique user
using variadic verbose when where window with
"""
RESERVED = frozenset(_RESERVED.split())
# As a qualifier (`migration.slices`), as a text of its own (`'migration'`), and where a statement or a sentence says
# what it is. Not `migration_assets`, nor the word in a sentence.
_OURS = re.compile(
    r"(?<![\w.\"-])migration(?=\.(?:[a-z_%{…]|$))"
    r"|(?<=')migration(?=')"
    r"|(?<=\bSCHEMA )migration(?![\w-])|(?<=\bSCHEMA IF NOT EXISTS )migration(?![\w-])|(?<=\bschema )migration(?![\w-])"
    r"|(?<![\w.\"-])migration(?=_quarantine\b)"
)


def schema_flaw(name: str) -> str | None:
    """Why a schema of ours cannot have that name; None where it can."""
    if not _PLAIN.fullmatch(name):
        return f"expected small letters, digits and underscores, a letter first, {_LONGEST} characters at most"
    if name in RESERVED or name.startswith("pg_") or name in {"public", "information_schema"}:
        return "PostgreSQL uses this name for something else"
    return None


def quarantine_schema(schema: str) -> str:
    """Where leaves lie that have left the root."""
    return f"{schema}_quarantine"


@lru_cache(maxsize=4096)
def renamed(text: str, schema: str) -> str:
    """A text of this program with the name that our schema really has.

    Args:
        text: Which calls it `migration`; never one that somebody else wrote, who may mean another schema.
        schema: Its name.
    """
    return text if schema == DEFAULT_SCHEMA else _OURS.sub(schema, text)
