"""Names of tables as PostgreSQL reads them, and the spec of the one table that is migrated."""

import re
from dataclasses import dataclass

from migration_assets.domain.errors import TableSpecError

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*))\s*')
_MAX_IDENTIFIER_BYTES = 63
# Words that PostgreSQL (15 to 18) takes for no name of a column or type; pg_get_keywords() lists them.
_RESERVED_WORDS = """
all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast
char character check coalesce collate collation column concurrently constraint create cross current_catalog
current_date current_role current_schema current_time current_timestamp current_user dec decimal default deferrable
desc distinct do else end except exists extract false fetch float for foreign freeze from full grant greatest group
grouping having ilike in initially inner inout int integer intersect interval into is isnull join json json_array
json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize json_table json_value
lateral leading least left like limit localtime localtimestamp merge_action national natural nchar none normalize
not notnull null nullif numeric offset on only or order out outer overlaps overlay placing position precision
primary real references returning right row select session_user setof similar smallint some substring symmetric
system_user table tablesample then time timestamp to trailing treat trim true union unique user using values varchar
variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces
xmlparse xmlpi xmlroot xmlserialize xmltable
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())


@dataclass(frozen=True, order=True)
class QualifiedName:
    """A schema and a relation name, both as stored in the catalogue (unquoted, case kept)."""

    schema: str
    name: str

    def __post_init__(self) -> None:
        for part in (self.schema, self.name):
            if not part or "\x00" in part or len(part.encode()) > _MAX_IDENTIFIER_BYTES:
                raise TableSpecError(
                    f"{part!r} is not a PostgreSQL identifier (1 to {_MAX_IDENTIFIER_BYTES} bytes, no NUL)"
                )

    @classmethod
    def parse(cls, text: str) -> "QualifiedName":
        """Read `schema.table` or `table` with PostgreSQL's rules: unquoted parts fold to lower case.

        Raises:
            TableSpecError: The text is not one or two identifiers.
        """
        parts = parse_identifiers(text)
        if len(parts) == 1:
            return cls("public", parts[0])
        if len(parts) == 2:  # noqa: PLR2004
            return cls(*parts)
        raise TableSpecError(f"{text!r} is not a table name: expected table or schema.table")

    def __str__(self) -> str:
        # It is the ledger's key, which never changes; and behind a dot PostgreSQL takes every word.
        return f"{_plainly_quoted(self.schema)}.{_plainly_quoted(self.name)}"

    def sibling(self, name: str) -> "QualifiedName":
        """Another relation of the same schema."""
        return QualifiedName(self.schema, name)


def parse_identifiers(text: str) -> list[str]:
    """Split dotted SQL identifiers, honouring double quotes.

    Raises:
        TableSpecError: Something that is no identifier stands between the dots.
    """
    parts: list[str] = []
    position = 0
    while True:
        match = _PART.match(text, position)
        if match is None:
            raise TableSpecError(
                f"{text!r} is not an SQL name",
                next_step='write schema.table; quote mixed case and odd characters: "My Schema"."My Table"',
            )
        quoted, plain = match.groups()
        parts.append(quoted.replace('""', '"') if quoted is not None else _fold(plain))
        position = match.end()
        if position == len(text):
            return parts
        if text[position] != ".":
            raise TableSpecError(f"{text!r} is not an SQL name: unexpected {text[position]!r}")
        position += 1


def _fold(name: str) -> str:
    """As PostgreSQL folds unquoted names in a UTF-8 database: A to Z alone."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def quote_identifier(name: str) -> str:
    """Quote for people to read and paste; SQL that we run is composed with psycopg.sql."""
    return _plainly_quoted(name) if name not in _RESERVED else f'"{name}"'


def quote_text(text: str) -> str:
    """A literal, for people to read and paste."""
    return "'" + text.replace("'", "''") + "'"


def _plainly_quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class TableSpec:
    """Which table is migrated, and which column decides a row's partition."""

    table: QualifiedName
    control_column: str

    @property
    def relation(self) -> str:
        """The key of this table in the ledger, e.g. `public.amenity_bookings`."""
        return str(self.table)
