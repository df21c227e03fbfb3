"""Names of tables as PostgreSQL reads them, and the spec of the one table that is migrated."""

import re
from dataclasses import dataclass

from migration_assets.domain.errors import TableSpecError

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*))\s*')
_MAX_IDENTIFIER_BYTES = 63


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
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

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
