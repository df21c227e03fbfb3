"""Which types values have in questions, and how each value comes out of what was stored.

A column has the DuckDB type that compares as PostgreSQL's type does. Where there is none, it is PostgreSQL's own text
and compares as such. The base's rows arrive as an archive would store them (`hot_rows`), so that the same expressions
make the same values of rows on either side. What a type cannot show is NULL. An enum's labels are shown under their
names of now: PostgreSQL renames labels and adds some; it drops none and moves none.
"""

import re
from collections.abc import Sequence

from migration_assets.archive.columns import Storage, StoredColumn
from migration_assets.archive.sql_values import day_text, literal, moment_text


def renamed_labels(then: Sequence[str], now: Sequence[str]) -> dict[str, str] | None:
    """Map every old label to its present name; None where that is ambiguous, or the type was replaced.

    Args:
        then: The labels in their order when the rows were archived.
        now: The labels in their order now.
    """
    names: dict[str, str] = {}
    kept = [label for label in then if label in now]
    if kept != [label for label in now if label in then]:
        return None  # a label took the former name of another one, or the type was recreated
    for old, new in zip(_between(then, kept), _between(now, kept), strict=True):
        if old and len(old) != len(new):
            return None
        names.update(zip(old, new, strict=False))
    return names | {label: label for label in kept}


def _between(labels: Sequence[str], kept: Sequence[str]) -> list[list[str]]:
    """Return the groups of labels before, between and after those that both sides have."""
    gaps: list[list[str]] = [[]]
    for label in labels:
        if label in kept:
            gaps.append([])
        else:
            gaps[-1].append(label)
    return gaps


_INTEGERS = {2: "SMALLINT", 4: "INTEGER", 8: "BIGINT"}
_SIMPLE = {
    Storage.BOOLEAN: "BOOLEAN",
    Storage.TEXT: "VARCHAR",
    Storage.JSON: "JSON",
    Storage.BYTES: "BLOB",
    Storage.UUID: "UUID",
    Storage.DATE: "DATE",
    Storage.TIMESTAMP: "TIMESTAMP",
    Storage.TIMESTAMPTZ: "TIMESTAMPTZ",
}
_DATED = {Storage.DATE, Storage.TIMESTAMP, Storage.TIMESTAMPTZ}
# Types that are stored as texts but have a DuckDB type, by PostgreSQL's names without their modifiers.
_BY_NAME = {
    "numeric": "DECIMAL(38,12)",
    "money": "DECIMAL(19,2)",
    "interval": "INTERVAL",
    "time without time zone": "TIME",
    "time with time zone": "TIMETZ",
    "oid": "UINTEGER",
    "xid8": "UBIGINT",
}
_MODIFIER = re.compile(r"\([\d,-]+\)")
# An element of an array as PostgreSQL writes it: quoted with backslashes, or bare; an empty one is always quoted.
_ELEMENT = r'"(?:[^"\\]|\\.)*"|[^,]+'
_OF_TIME = re.compile("DATE|TIME|INTERVAL")
_TEXTS = {"DATE": day_text, "TIMESTAMP": day_text, "TIMESTAMP WITH TIME ZONE": moment_text}
_DAY, _MONTH = 86_400_000_000, 30 * 86_400_000_000


def shown_type(column: StoredColumn) -> str:
    """Return the column's DuckDB type; an unconstrained numeric gets 26 digits before the point and 12 after it."""
    match column.storage:
        case Storage.INTEGER:
            return _INTEGERS[column.width]
        case Storage.FLOAT:
            return "FLOAT" if column.width == 4 else "DOUBLE"  # noqa: PLR2004  bytes of a real
        case Storage.DECIMAL:
            return f"DECIMAL({column.precision},{column.scale})"
        case Storage.LIST:
            element = Storage.TEXT if column.element is None else column.element
            return f"{_INTEGERS[column.width] if element is Storage.INTEGER else _SIMPLE[element]}[]"
        case Storage.TEXT:
            enum = f"ENUM({', '.join(map(literal, column.labels))})"
            return enum if column.labels else _BY_NAME.get(plain_type(column), "VARCHAR")
        case _:
            return _SIMPLE[column.storage]


def answered(value: str, kind: str) -> str:
    """Return SQL that makes a value fit for Python, which lacks infinite dates, dates BC and months in intervals.

    Args:
        value: The value in SQL.
        kind: DuckDB's name of its type.
    """
    if kind in _TEXTS:
        return _TEXTS[kind](value)
    return f"CAST({value} AS VARCHAR)" if _OF_TIME.search(kind) else value


def plain_type(column: StoredColumn) -> str:
    """Return the name of the column's type without modifiers; for a domain, that of its base type."""
    return _MODIFIER.sub("", column.base_type or column.type_name)


def is_padded(column: StoredColumn) -> bool:
    """Return whether PostgreSQL pads the column's values with blanks that it ignores in comparisons."""
    return plain_type(column) in {"character", "bpchar"}


def as_shown(column: StoredColumn, name: str, stored: StoredColumn, *, of: str = "") -> str:
    """Return SQL that converts a stored value to the column's type in questions.

    Args:
        column: The column as the table has it now.
        name: The stored value's name in SQL, quoted where necessary.
        stored: The column as the week's archive has it.
        of: The week, for errors.
    """
    kind, was = shown_type(column), _stored_type(stored)
    if kind == "VARCHAR" and (is_padded(column) or is_padded(stored)):
        return f"rtrim({name}, ' ')"
    if kind == was:
        return name  # unconverted, so that conditions can use the files' statistics
    if stored.storage is not Storage.TEXT:
        return f"TRY_CAST({name} AS {kind})"
    return _of_text(column, name, stored, of)


def _of_text(column: StoredColumn, name: str, stored: StoredColumn, of: str) -> str:
    kind = shown_type(column)
    match column.storage:
        case Storage.LIST:
            name = _elements(name)
        case Storage.BYTES:
            return f"CASE WHEN regexp_full_match({name}, '\\\\x([0-9a-f]{{2}})*') THEN unhex(substr({name}, 3)) END"
        case Storage.TEXT if column.labels:
            return _enum(column, name, stored, of)
        case Storage.TEXT if kind == "INTERVAL":
            return _interval(name)
        case Storage.TEXT if plain_type(column) == "money":
            name = f"regexp_replace({name}, '[$,]', '', 'g')"
        case storage if storage in _DATED:
            # DuckDB would read "0044-03-15 BC" as a date AD.
            name = rf"regexp_replace({name}, '^(\S+)( .*)? BC$', '\1 (BC)\2')"
        case _:
            pass
    return f"TRY_CAST({name} AS {kind})"


def _stored_type(stored: StoredColumn) -> str:
    return "VARCHAR" if stored.storage is Storage.TEXT else shown_type(stored)


def _elements(name: str) -> str:
    """Return an array's elements as texts; NULL for one with several dimensions or other bounds than from 1."""
    bare = f"regexp_extract_all(substr({name}, 2, length({name}) - 2), '{_ELEMENT}')"
    unquoted = r"regexp_replace(substr(e, 2, length(e) - 2), '\\(.)', '\1', 'gs')"
    element = f"CASE WHEN e = 'NULL' THEN NULL WHEN starts_with(e, '\"') THEN {unquoted} ELSE e END"
    plain = f"starts_with({name}, '{{') AND NOT starts_with({name}, '{{{{')"
    return f"CASE WHEN {plain} THEN list_transform({bare}, lambda e: {element}) END"


def _enum(column: StoredColumn, name: str, stored: StoredColumn, of: str) -> str:
    """Show labels by their present names; where a name is ambiguous, a question that needs it fails with the reason."""
    kind = shown_type(column)
    if stored.labels == column.labels:
        return f"CAST({name} AS {kind})"
    names = renamed_labels(stored.labels, column.labels)
    fails = f"error({literal(_lost_labels(column, stored, of))})"
    if names is None:
        return f"CAST(CASE WHEN {name} IS NOT NULL THEN {fails} END AS {kind})"
    cases = "".join(f" WHEN {literal(old)} THEN {literal(new)}" for old, new in names.items())
    return f"CAST(CASE WHEN {name} IS NULL THEN NULL ELSE CASE {name}{cases} ELSE {fails} END END AS {kind})"


def _lost_labels(column: StoredColumn, stored: StoredColumn, of: str) -> str:
    lost = [label for label in stored.labels if label not in column.labels] or list(stored.labels)
    return (
        f"the labels of {column.type_name} were changed since {of or 'a week'} was archived, and it cannot be told"
        f" which present label is meant by {', '.join(map(repr, lost))} in column {column.name}: leave the column out,"
        " or rename the labels back (ALTER TYPE ... RENAME VALUE) while you ask"
    )


def _interval(name: str) -> str:
    """Return SQL that reads an interval from PostgreSQL's text.

    PostgreSQL compares intervals with months of 30 days and days of 24 hours. DuckDB does the same, except where the
    parts have different signs. Such an interval is shown as an equal one whose parts have the same sign.
    """

    def part(pattern: str) -> str:
        return f"coalesce(TRY_CAST(nullif(regexp_extract({name}, '([+-]?\\d+) {pattern}', 1), '') AS BIGINT), 0)"

    clock = r"([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?$"

    def of_clock(group: int) -> str:
        return f"regexp_extract({name}, '{clock}', {group})"

    def number(group: int) -> str:
        return f"coalesce(TRY_CAST(nullif({of_clock(group)}, '') AS BIGINT), 0)"

    seconds = f"(({number(2)} * 60 + {number(3)}) * 60 + {number(4)})"
    fraction = f"coalesce(TRY_CAST(nullif(rpad({of_clock(5)}, 6, '0'), '') AS BIGINT), 0)"
    sign = f"CASE WHEN {of_clock(1)} = '-' THEN -1 ELSE 1 END"
    parts = (
        f"{{'m': {part('years?')} * 12 + {part('mons?')}, 'd': {part('days?')},"
        f" 'u': ({sign}) * ({seconds} * 1000000 + CASE WHEN {of_clock(5)} = '' THEN 0 ELSE {fraction} END)}}"
    )
    total = f"(p.m::HUGEINT * {_MONTH} + p.d::HUGEINT * {_DAY} + p.u)"
    made = "to_months({}::INTEGER) + to_days({}::INTEGER) + to_microseconds({}::BIGINT)"
    plain = made.format("p.m", "p.d", "p.u")
    # DuckDB's integer division rounds towards zero, and a remainder has the sign of the dividend.
    even = made.format(f"({total} // {_MONTH})", f"(({total} % {_MONTH}) // {_DAY})", f"({total} % {_DAY})")
    mixed = "least(p.m, p.d, p.u) < 0 AND greatest(p.m, p.d, p.u) > 0"
    return (
        f"CASE WHEN NOT contains({name}, 'infinity') THEN list_transform([{parts}],"
        f" lambda p: CASE WHEN {mixed} THEN {even} ELSE {plain} END)[1] END"
    )
