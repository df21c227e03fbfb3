"""Names of tables as PostgreSQL reads them, the spec of the one table that is migrated, and the names of its leaves."""

import hashlib
import re
from dataclasses import dataclass

from migration_assets.domain.errors import CalendarError, TableSpecError
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*))\s*')
_MAX_IDENTIFIER_BYTES = 63
# Words that PostgreSQL (15 to 18) does not accept as a column or type name; pg_get_keywords() lists them.
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
    """A schema and a relation name, both as stored in the catalogue (unquoted, case preserved)."""

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
        """Parse `schema.table` or `table` by PostgreSQL's rules: unquoted parts fold to lower case.

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
        # Reserved words stay unquoted: this text is the ledger's key and must never change, and after a dot PostgreSQL
        # accepts every word.
        return f"{_plainly_quoted(self.schema)}.{_plainly_quoted(self.name)}"

    def sibling(self, name: str) -> "QualifiedName":
        """Another relation in the same schema."""
        return QualifiedName(self.schema, name)


def parse_identifiers(text: str) -> list[str]:
    """Split dotted SQL identifiers, honouring double quotes.

    Raises:
        TableSpecError: A part between the dots is not an identifier.
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
    """Fold a name to lower case as PostgreSQL does for unquoted names in a UTF-8 database: only A to Z."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def quote_identifier(name: str) -> str:
    """Quote an identifier in text for people to read and paste; SQL that we run is composed with psycopg.sql."""
    return _plainly_quoted(name) if name not in _RESERVED else f'"{name}"'


def quote_text(text: str) -> str:
    """Quote a literal in text for people to read and paste."""
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


MAX_IDENTIFIER_BYTES = 63

# Room for the longest suffix is always reserved, so that all partitions of a table share one stem.
_MAX_STEM_BYTES = MAX_IDENTIFIER_BYTES - len("_fy2125_q1_w05")
_HASH_DIGITS = 8
_MAX_HEAD_BYTES = _MAX_STEM_BYTES - _HASH_DIGITS - len("_")
_UTF8_MAX_BYTES = 4
_SHORTENED = re.compile(rf"_[0-9a-f]{{{_HASH_DIGITS}}}\Z")
_SUFFIX = re.compile(r"_fy([0-9]{2,4})_q([1-4])(?:_(w[0-9]{2}))?")


def quarter_table_name(table: str, quarter: FiscalQuarter) -> str:
    """`amenity_bookings_fy25_q2`; the table's part is shortened as `leaf_name` says."""
    return _stem(table) + _suffix(quarter)


def leaf_name(table: str, week: FiscalWeek) -> str:
    """`amenity_bookings_fy25_q2_w05`, at most 63 bytes of UTF-8.

    A table name of more than 49 bytes is cut between characters and gets a hash of the whole name, so that different
    tables keep different names.

    Raises:
        TableSpecError: No table can have this name.
    """
    return f"{_stem(table)}{_suffix(week.quarter)}_{week.name.lower()}"


def parse_leaf_name(table: str, leaf: str) -> FiscalWeek | None:
    """The week for which `leaf` is the name of the table's leaf; None for any other name."""
    quarter_key, week_name = _keys(table, leaf)
    try:
        return FiscalWeek.parse(f"{quarter_key}|{week_name}")
    except CalendarError:
        return None


def parse_quarter_table_name(table: str, name: str) -> FiscalQuarter | None:
    """The quarter for which `name` is the name of the table's quarter partition; None for any other name."""
    quarter_key, week_name = _keys(table, name)
    try:
        return None if week_name else FiscalQuarter.parse(quarter_key)
    except CalendarError:
        return None


def _suffix(quarter: FiscalQuarter) -> str:
    return f"_{quarter.key.lower().replace('-', '_')}"


def _keys(table: str, name: str) -> tuple[str, str]:
    """The quarter's and week's keys as spelled in the name; empty where there are none."""
    stem = _stem(table)
    match = _SUFFIX.fullmatch(name, len(stem)) if name.startswith(stem) else None
    if match is None:
        return "", ""
    return f"FY{match[1]}-Q{match[2]}", (match[3] or "").upper()


def _stem(table: str) -> str:
    """The table's part of its partitions' names, at most 49 bytes, different for different tables."""
    try:
        whole = table.encode()
    except UnicodeEncodeError as error:
        raise TableSpecError(f"{table!r} cannot be the name of a table: it is not valid Unicode") from error
    if not whole or b"\0" in whole:
        raise TableSpecError(f"{table!r} cannot be the name of a table")
    # A name that happens to look like a shortened one is shortened too: otherwise it could equal a shortened name.
    looks_shortened = len(whole) > _MAX_STEM_BYTES - _UTF8_MAX_BYTES and _SHORTENED.search(table)
    if len(whole) <= _MAX_STEM_BYTES and not looks_shortened:
        return table
    head = whole[:_MAX_HEAD_BYTES].decode(errors="ignore")  # drops the bytes of a partly cut character
    return f"{head}_{hashlib.sha256(whole).hexdigest()[:_HASH_DIGITS]}"
