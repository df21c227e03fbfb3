"""The name of this program's own schema, which it creates on both servers.

All texts in this package (statements, functions, advice) call the schema `migration`. If a team chose another name,
`renamed` replaces it when a text is sent or shown; nothing else does.
"""

import re
from functools import lru_cache

DEFAULT_SCHEMA = "migration"
_LONGEST = 48
"""Characters; the longer name of the quarantine schema must stay within PostgreSQL's 63."""
_PLAIN = re.compile(rf"[a-z][a-z0-9_]{{0,{_LONGEST - 1}}}")
# Words that PostgreSQL does not accept as a name without quotes (pg_get_keywords, classes R and T; a test compares them
# with the servers). The schema's name also becomes part of a setting's name, which cannot be quoted.
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
# Matches the name as a qualifier (`migration.slices`), as a literal (`'migration'`), and after the word "schema" in a
# statement or a sentence. It does not match `migration_assets` or the ordinary word.
_OURS = re.compile(
    r"(?<![\w.\"-])migration(?=\.(?:[a-z_%{…]|$))"
    r"|(?<=')migration(?=')"
    r"|(?<=\bSCHEMA )migration(?![\w-])|(?<=\bSCHEMA IF NOT EXISTS )migration(?![\w-])|(?<=\bschema )migration(?![\w-])"
    r"|(?<![\w.\"-])migration(?=_quarantine\b)"
)


def schema_flaw(name: str) -> str | None:
    """Why our schema cannot have this name; None if it can."""
    if not _PLAIN.fullmatch(name):
        return f"expected small letters, digits and underscores, a letter first, {_LONGEST} characters at most"
    if name in RESERVED or name.startswith("pg_") or name in {"public", "information_schema"}:
        return "PostgreSQL uses this name for something else"
    return None


def quarantine_schema(schema: str) -> str:
    """The schema for leaves that were detached from the root."""
    return f"{schema}_quarantine"


@lru_cache(maxsize=4096)
def renamed(text: str, schema: str) -> str:
    """Replace `migration` in a text of this program by the actual name of our schema.

    Args:
        text: A text of this program; never a foreign one, which may mean another schema.
        schema: The schema's actual name.
    """
    return text if schema == DEFAULT_SCHEMA else _OURS.sub(schema, text)
