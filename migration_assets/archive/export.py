"""What a slice holds before it leaves PostgreSQL: types, fingerprints, figures, and the query that reads it.

Each column is read in two ways: as the Arrow driver takes it, and as the text of the portable fingerprint.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from migration_assets.archive.columns import RANGED, ColumnStatistics, Storage, StoredColumn, stored_columns
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.fingerprints import SEEDS, hashed_columns, row_hash
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name

# Types whose values are their own text, to the byte. Other types are not cast to text: the cast may be a user's own.
_PLAIN_TEXT = re.compile(r"text|character varying(\(\d+\))?")
_SEND = {
    Storage.DATE: "date_send",
    Storage.TIMESTAMP: "timestamp_send",
    Storage.TIMESTAMPTZ: "timestamptz_send",
}
_FLOAT_SEND = {4: ("float4send", "real"), 8: ("float8send", "double precision")}
# The range of timestamps that PostgreSQL shares with DuckDB, whose infinities are the limits of 64 bits. ADBC adds an
# offset between epochs to an infinity, which overflows; therefore infinity is exported as the latest moment that fits,
# and -infinity as PostgreSQL's earliest one. Finite values near either of them make the column unfit, so that they
# cannot be mistaken for infinities.
LATEST = "294247-01-10 04:00:54.775807"
EARLIEST = "4714-11-24 00:00:00 BC"
_SAFE_UNTIL, _SAFE_FROM = "294247-01-01", "4713-01-01 BC"
# `concat` takes 100 arguments; a column needs up to three.
_CONCAT_COLUMNS = 30


def output_text(column: StoredColumn) -> sql.Composed:
    """Return SQL for the output of the type's own output function, NULL for NULL.

    A cast is not used, because it would call a user's `CREATE CAST (… AS text)`. `IS NULL` is not used, because it is
    also true for a composite whose fields are all NULL.
    """
    return sql.SQL("CASE WHEN {c} IS DISTINCT FROM NULL THEN format('%s', {c}) END").format(
        c=sql.Identifier(column.name)
    )


def exported(column: StoredColumn) -> sql.Composable:
    """Return SQL for the value that ADBC reads of a column; `parts.to_stored` makes the stored value of it."""
    name = sql.Identifier(column.name)
    match column.storage:
        case Storage.DATE:
            # Days since 1970 with DuckDB's infinities: ADBC turns an infinite date into a wrong one.
            return sql.SQL(
                "CASE WHEN isfinite({c}) THEN {c} - date '1970-01-01'"
                " WHEN {c} > date '1970-01-01' THEN 2147483647 WHEN {c} < date '1970-01-01' THEN -2147483647 END"
            ).format(c=name)
        case Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            return sql.SQL(
                "CASE WHEN isfinite({c}) THEN {c} WHEN {c} > {middle} THEN {latest}"
                " WHEN {c} < {middle} THEN {earliest} END"
            ).format(c=name, middle=_moment(column, "1970-01-01"), latest=_moment(column, LATEST),
                     earliest=_moment(column, EARLIEST))  # fmt: skip
        case Storage.TEXT:
            return name if _PLAIN_TEXT.fullmatch(column.type_name) else output_text(column)
        case _:
            return name


def _moment(column: StoredColumn, text: str) -> sql.SQL:
    return raw_sql(f"{'timestamptz' if column.storage is Storage.TIMESTAMPTZ else 'timestamp'} '{text}'")


def unfit_condition(column: StoredColumn) -> sql.Composed | None:
    """Return a condition that is true for values the exact type cannot carry; None where it can carry every value."""
    name = sql.Identifier(column.name)
    match column.storage:
        case Storage.DECIMAL:
            return sql.SQL("{c} IN (numeric 'NaN', numeric 'Infinity', numeric '-Infinity')").format(c=name)
        case Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            return sql.SQL("isfinite({c}) AND ({c} >= {until} OR {c} < {since})").format(
                c=name, until=_moment(column, _SAFE_UNTIL), since=_moment(column, _SAFE_FROM)
            )
        case Storage.LIST:
            return sql.SQL("array_ndims({c}) > 1 OR array_lower({c}, 1) <> 1").format(c=name)
        case _:
            return None


def canonical(column: StoredColumn) -> sql.Composable:
    """Return the column's text, or a value that `concat` turns into it; NULL for NULL. `row_digest` adds lengths."""
    name = sql.Identifier(column.name)
    match column.storage:
        case Storage.FLOAT:
            # Every NaN becomes PostgreSQL's own NaN: see `postgres/fingerprints.py`.
            send, plain = _FLOAT_SEND[column.width]
            return sql.SQL("encode({}(CASE WHEN {c} = {nan} THEN {nan} ELSE {c} END), 'hex')").format(
                raw_sql(send), c=name, nan=sql.SQL("'NaN'::{}").format(raw_sql(plain))
            )
        case Storage.DATE | Storage.TIMESTAMP | Storage.TIMESTAMPTZ:
            return sql.SQL("encode({}({}), 'hex')").format(raw_sql(_SEND[column.storage]), name)
        case Storage.JSON | Storage.LIST:
            return output_text(column)
        case _:
            return exported(column)


def row_digest(columns: Sequence[StoredColumn], names: Sequence[sql.Identifier], *, utf8: bool) -> sql.Composed:
    """Return SQL for the MD5 of a row's text.

    Args:
        columns: In the archive's order.
        names: The names of the values that `canonical` made, one for each column.
        utf8: Whether the server's encoding is UTF-8, so that texts need no conversion.
    """
    as_utf8 = raw_sql("{}" if utf8 else "convert_to({}, 'UTF8')")
    parts = [_framed(column, name, as_utf8) for column, name in zip(columns, names, strict=True)]
    texts = [
        sql.SQL("concat({})").format(sql.SQL(", ").join(parts[start : start + _CONCAT_COLUMNS]))
        for start in range(0, len(parts), _CONCAT_COLUMNS)
    ]
    return sql.SQL("md5({})").format(as_utf8.format(sql.SQL(" || ").join(texts)))


def _framed(column: StoredColumn, name: sql.Identifier, as_utf8: sql.SQL) -> sql.Composed:
    match column.storage:
        case Storage.BYTES:
            return sql.SQL("octet_length({c}), ':', md5({c})").format(c=name)
        case Storage.TEXT | Storage.JSON | Storage.LIST:
            return sql.SQL("octet_length({}), ':', {}").format(as_utf8.format(name), name)
        case _:
            return sql.SQL("{}, ','").format(name)


# Two sums over 60 bits of the MD5 `m` each: 60 bits fit a positive bigint in both PostgreSQL and DuckDB.
_SUMS = sql.SQL(
    "sum(('x' || substr(m, 1, 15))::bit(60)::bigint) AS a, sum(('x' || substr(m, 18))::bit(60)::bigint) AS b"
)


@dataclass(frozen=True)
class SliceProfile:
    """A slice as one snapshot shows it.

    Attributes:
        columns: How each column is kept; TEXT where the slice holds a value that its exact type cannot carry.
        native: The fingerprint of `postgres/fingerprints.py`, over all columns.
        portable: The fingerprint that DuckDB can compute too, by `PORTABLE_METHOD`.
        statistics: By column name.
    """

    columns: tuple[StoredColumn, ...]
    native: Fingerprint
    portable: Fingerprint
    statistics: Mapping[str, ColumnStatistics]


def profile_slice(connection: Connected, table: QualifiedName, description: TableDescription) -> SliceProfile:
    """Profile the slice in one scan; in a second one where a value does not fit its column's exact type, which is rare.

    Args:
        connection: From `sessions.connect`, whose settings make text output the same everywhere. The snapshot of its
            transaction decides what is seen.
        table: The leaf.
        description: The base's table; the leaf may have its columns in another order.
    """
    profile, unfit = _measure(connection, table, description, stored_columns(description))
    if unfit:
        profile, _ = _measure(connection, table, description, stored_columns(description, unfit))
    return profile


def portable_fingerprint(connection: Connected, table: QualifiedName, columns: Sequence[StoredColumn]) -> Fingerprint:
    """Return the fingerprint that `sql_values.portable_fingerprint` takes of the same rows in Parquet.

    Args:
        connection: From `sessions.connect`.
        table: The leaf, or a table that was restored.
        columns: As the archive keeps them.
    """
    query = sql.SQL("SELECT count(*), {} FROM (SELECT {} AS m FROM (SELECT {} FROM {} OFFSET 0) t OFFSET 0) r").format(
        _SUMS,
        row_digest(columns, _names(columns), utf8=_is_utf8(connection)),
        _numbered(columns),
        table_name(table),
    )
    return Fingerprint.from_row(*require_row(connection.execute(query).fetchone(), "a portable fingerprint"))


def export_query(table: QualifiedName, columns: Sequence[StoredColumn], order_by: Sequence[str]) -> sql.Composed:
    """Return the query that ADBC reads: values that it carries exactly, for `parts.to_stored`.

    Args:
        table: The leaf.
        columns: The columns of the slice's profile.
        order_by: Names of columns to sort by, so that rows close in time lie close in the file.
    """
    values = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(exported(column), sql.Identifier(column.name)) for column in columns
    )
    if not order_by:
        return sql.SQL("SELECT {} FROM {}").format(values, table_name(table))
    # Qualified, because a bare name would mean the output column, which may be text and would sort as text.
    keys = sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in order_by)
    return sql.SQL("SELECT {} FROM {} AS t ORDER BY {}").format(values, table_name(table), keys)


def _is_utf8(connection: Connected) -> bool:
    return connection.info.parameter_status("server_encoding") == "UTF8"


def _names(columns: Sequence[StoredColumn]) -> list[sql.Identifier]:
    return [sql.Identifier(f"t{number}") for number in range(len(columns))]


def _numbered(columns: Sequence[StoredColumn]) -> sql.Composed:
    """Each value once, in the innermost query: the queries above may use it several times."""
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(canonical(column), name)
        for column, name in zip(columns, _names(columns), strict=True)
    )


def _measure(
    connection: Connected, table: QualifiedName, description: TableDescription, columns: tuple[StoredColumn, ...]
) -> tuple[SliceProfile, set[str]]:
    """Return the profile, and the names of columns that hold a value which their exact type cannot carry."""
    hashed = hashed_columns(description)
    ranged = [column for column in columns if column.storage in RANGED]
    unfit = {c.name: condition for c in columns if (condition := unfit_condition(c)) is not None}
    inner = [
        sql.SQL("{} AS h").format(row_hash(hashed)),
        _numbered(columns),
        *(sql.SQL("{} AS {}").format(sql.Identifier(c.name), sql.Identifier(f"v{n}")) for n, c in enumerate(ranged)),
        *(sql.SQL("{} AS {}").format(flag, sql.Identifier(f"f{n}")) for n, flag in enumerate(unfit.values())),
    ]
    values = [sql.Identifier(f"v{number}") for number in range(len(ranged))]
    figures = [sql.SQL("count({})::text").format(name) for name in _names(columns)]
    figures += [sql.SQL("min({})::text").format(name) for name in values]
    figures += [sql.SQL("max({})::text").format(name) for name in values]
    figures += [sql.SQL("bool_or({})::text").format(sql.Identifier(f"f{n}")) for n in range(len(unfit))]
    query = sql.SQL(
        # An array, since a query has at most 1,664 columns. OFFSET 0 keeps the planner from flattening the subquery,
        # which would compute its values as often as they are used; parallel plans stay possible.
        "SELECT count(*), sum(hashtextextended(h, {s})), sum(hashtextextended(h, {t})), {sums}, ARRAY[{figures}]"
        " FROM (SELECT *, {digest} AS m FROM (SELECT {inner} FROM {table} OFFSET 0) AS t OFFSET 0) AS r"
    ).format(
        s=SEEDS[0],
        t=SEEDS[1],
        sums=_SUMS,
        figures=sql.SQL(", ").join(figures),
        digest=row_digest(columns, _names(columns), utf8=_is_utf8(connection)),
        inner=sql.SQL(", ").join(inner),
        table=table_name(table),
    )
    row = require_row(connection.execute(query).fetchone(), "the profile of a slice")
    found = _Figures(row[5])
    statistics = _statistics(int(row[0]), columns, ranged, found)
    names = {name for name in unfit if found.next() == "true"}
    profile = SliceProfile(
        columns=columns,
        native=Fingerprint.from_row(row[0], row[1], row[2]),
        portable=Fingerprint.from_row(row[0], row[3], row[4]),
        statistics=statistics,
    )
    return profile, names


class _Figures:
    """Reads the figures of a profile one after the other."""

    def __init__(self, values: Sequence[str | None]) -> None:
        self._values = iter(values)

    def next(self) -> str | None:
        return next(self._values)

    def take(self, number: int) -> list[str | None]:
        return [self.next() for _ in range(number)]


def _statistics(
    rows: int, columns: Sequence[StoredColumn], ranged: Sequence[StoredColumn], found: _Figures
) -> dict[str, ColumnStatistics]:
    counts = found.take(len(columns))
    ranges: dict[str, Any] = dict(
        zip([c.name for c in ranged], zip(found.take(len(ranged)), found.take(len(ranged)), strict=True), strict=True)
    )
    return {
        column.name: ColumnStatistics(rows - int(count or 0), *ranges.get(column.name, ()))
        for column, count in zip(columns, counts, strict=True)
    }


__all__ = ["ColumnStatistics", "SliceProfile", "export_query", "portable_fingerprint", "profile_slice"]
