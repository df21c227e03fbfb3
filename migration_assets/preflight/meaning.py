"""Proves that both servers compute equal fingerprints of equal values, and mean the same by a type of the user's.

Sample values need no table; values of the user's own types are taken from the legacy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import errors, sql

from migration_assets.domain.findings import Area, Finding
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.table_description import Column, Hashing, TableDescription
from migration_assets.postgres.fingerprints import SEEDS, hash_input, hashed_columns, row_hash
from migration_assets.postgres.server_messages import shown_message
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.preflight.plan import error_text, judge, listed

_BLOCKS = 50
_VALUES = 200


def examine_values(legacy: Connected, base: Connected, description: TableDescription) -> list[Finding]:
    """Compare some values of each column with a user's type or collation on both servers.

    The values come from the table's first and last blocks, for which no index is needed. None of them is shown.
    """
    names = {one.name for one in description.types}
    columns = [
        column for column in description.columns if column.collation or any(name in column.type_name for name in names)
    ]
    columns = [column for column in columns if _is_known(base, column)]
    problems: list[str] = []
    tried = 0
    for column in columns:
        texts = _sample(legacy, description, column)
        tried += len(texts)
        problem = _compare(legacy, base, column, texts) if texts else None
        if problem:
            problems.append(f"{column.name} ({column.type_name}): {problem}")
    return [
        judge(
            "type_meaning",
            Area.BASE,
            listed(problems)
            or f"{tried} values of {len(columns)} columns with your own types or collations mean the"
            " same on both servers",
            good=not problems,
            remedy="make the base's types and collations those of the legacy: see the findings `types_differ`, and the"
            " versions of the extensions that they come from",
        )
    ]


def _is_known(base: Connected, column: Column) -> bool:
    row = base.execute(
        "SELECT to_regtype(%s) IS NOT NULL AND (%s::text IS NULL OR to_regcollation(%s) IS NOT NULL)",
        [column.type_name, column.collation, column.collation],
    ).fetchone()
    return bool(require_row(row, "a type")[0])


def _sample(legacy: Connected, description: TableDescription, column: Column) -> list[str]:
    table = table_name(description.table)
    row = legacy.execute(
        sql.SQL("SELECT pg_relation_size({}::regclass) / current_setting('block_size')::int").format(
            sql.Literal(str(description.table))
        )
    ).fetchone()
    blocks = int(require_row(row, "a size")[0])
    ends = (
        raw_sql(f"t.ctid < '({_BLOCKS},0)'"),
        raw_sql(f"t.ctid >= '({max(_BLOCKS, blocks - _BLOCKS)},0)'"),
    )
    some = sql.SQL(" UNION ALL ").join(
        sql.SQL("(SELECT t.{} AS v FROM {} AS t WHERE {})").format(sql.Identifier(column.name), table, end)
        for end in ends
    )
    found = legacy.execute(
        sql.SQL("SELECT DISTINCT format('%s', v) FROM ({}) AS ends WHERE v IS DISTINCT FROM NULL LIMIT {}").format(
            some, sql.Literal(_VALUES)
        )
    )
    return [str(row[0]) for row in found]


def _compare(legacy: Connected, base: Connected, column: Column, texts: Sequence[str]) -> str | None:
    try:
        one, other = (_seen_by(side, column, texts) for side in (legacy, base))
    except errors.DataError as error:
        return (
            f"the base refuses a value of the legacy ({shown_message(error.diag.message_primary or '') or 'no reason'})"
        )
    except errors.IntegrityError as error:
        return (
            f"the base refuses a value of the legacy ({shown_message(error.diag.message_primary or '') or 'a check'})"
        )
    different = [what for what, here, there in zip(("text", "hash", "order"), one, other, strict=True) if here != there]
    return f"{' and '.join(different)} of the same values differ" if different else None


def _seen_by(side: Connected, column: Column, texts: Sequence[str]) -> tuple[Any, Any, Any]:
    """Return the values' texts and hashes, and their order; None for the order of a type that has none."""
    collate = raw_sql(f"COLLATE {column.collation}" if column.collation else "")
    values = sql.SQL("(SELECT n, x::{} AS v FROM unnest({}::text[]) WITH ORDINALITY AS t(x, n)) AS given").format(
        raw_sql(column.type_name), sql.Literal(list(texts))
    )
    entered = hash_input(replace(column, name="v"))
    row = side.execute(
        sql.SQL(
            "SELECT array_agg(format('%s', v) ORDER BY n),"
            " array_agg(hash_record_extended(row({}), 0) ORDER BY n) FROM {}"
        ).format(entered, values)
    ).fetchone()
    seen, hashes = require_row(row, "values")
    try:
        row = side.execute(
            sql.SQL("SELECT array_agg(n ORDER BY v {}, format('%s', v) COLLATE \"C\") FROM {}").format(collate, values)
        ).fetchone()
    except (errors.UndefinedFunction, errors.UndefinedObject):
        return seen, hashes, None  # the type has no order on either side
    return seen, hashes, require_row(row, "an order")[0]


@dataclass(frozen=True)
class ProbeColumn:
    """A type, its send function as the catalogue's description has it (a test compares them), and tricky values."""

    type_name: str
    send_function: str | None
    values: tuple[str, ...]

    def column(self, name: str) -> Column:
        """Return the description of a table's column of this type."""
        hashing = Hashing.SEND if self.send_function else Hashing.NATIVE
        return Column(name, self.type_name, False, hashing, True, self.send_function)


PROBE = (
    ProbeColumn("boolean", None, ("true", "false")),
    ProbeColumn("smallint", None, ("-32768", "0", "32767")),
    ProbeColumn("integer", None, ("-2147483648", "-1", "2147483647")),
    ProbeColumn("bigint", "int8send", ("-9223372036854775808", "1", "4294967296", "9223372036854775807")),
    ProbeColumn("numeric", "numeric_send", ("1.0", "1.00", "NaN", "-Infinity", "-0.000123", "12345678901234567890.5")),
    ProbeColumn("numeric(12,2)", "numeric_send", ("0", "-1.5", "9999999999.99")),
    ProbeColumn("real", "float4send", ("-0", "0", "NaN", "-Infinity", "1e-37")),
    ProbeColumn("double precision", "float8send", ("-0", "0", "NaN", "Infinity", "0.1", "1e-307")),
    ProbeColumn("date", None, ("1969-12-31", "0044-03-15 BC", "infinity", "9999-12-31")),
    ProbeColumn("timestamp without time zone", "timestamp_send", ("1900-01-01 00:00:00.123456", "-infinity")),
    ProbeColumn("timestamp with time zone", "timestamptz_send", ("1969-12-31 23:59:59.999999+00", "infinity")),
    ProbeColumn("time without time zone", "time_send", ("00:00:00", "24:00:00", "12:34:56.789")),
    ProbeColumn("time with time zone", "timetz_send", ("12:00:00+05:30",)),
    ProbeColumn("interval", "interval_send", ("1 day", "24:00:00", "-1 mon 2 days -3.5 secs")),
    ProbeColumn("text", None, ("", " ", "Zürich 北京 😀", "e\u0301", "a\tb\nc", "NULL")),
    ProbeColumn("character varying(20)", None, ("", "ÅÄÖ", "ß")),
    ProbeColumn("character(5)", "bpcharsend", ("ab", "é", "")),
    ProbeColumn("bytea", None, ("\\x", "\\x00", "\\x00ff80")),
    ProbeColumn("uuid", None, ("00000000-0000-0000-0000-000000000000", "f47ac10b-58cc-4372-a567-0e02b2c3d479")),
    ProbeColumn("json", "json_send", ('{"b": 1.0, "a": [null]}', "null")),
    ProbeColumn("jsonb", "jsonb_send", ('{"b": 1.0, "a": [null, "ü"]}', "null", "1.00")),
    ProbeColumn("inet", "inet_send", ("192.168.0.1/24", "::1")),
    ProbeColumn("macaddr", "macaddr_send", ("08:00:2b:01:02:03",)),
    ProbeColumn("integer[]", "array_send", ("{1,NULL,-3}", "{}", "{{1,2},{3,4}}", "[0:1]={7,8}")),
    ProbeColumn("text[]", "array_send", ('{"",NULL,"NULL","ü"}', "{}")),
    ProbeColumn("bit varying(9)", "varbit_send", ("", "101", "000000001")),
    ProbeColumn("point", "point_send", ("(-0,1.5)",)),
    ProbeColumn("int4range", "range_send", ("[1,5)", "empty", "(,3]")),
    ProbeColumn("tsvector", "tsvectorsend", ("'fat':2A 'rat':3",)),
)
_ROWS = 1 + max(len(column.values) for column in PROBE)  # the last row is NULL everywhere


def examine_probe(legacy: Connected, base: Connected) -> list[Finding]:
    """Compare the fingerprints of the same fixed rows, taken by both servers with the expressions that prove copies."""
    figures: list[Fingerprint] = []
    for side, connection in (("legacy", legacy), ("base", base)):
        try:
            figures.append(probe_fingerprint(connection, PROBE))
        except psycopg.Error as error:
            return [
                judge(
                    "fingerprint_probe",
                    Area.BASE,
                    f"the {side} cannot hash the fixed rows: {error_text(error)}",
                    good=False,
                    remedy="if the encodings differ, create the base database with the legacy's; otherwise report this"
                    " with both server versions",
                )
            ]
    equal = figures[0] == figures[1]
    odd = [] if equal else _odd_types(legacy, base)
    return [
        judge(
            "fingerprint_probe",
            Area.BASE,
            f"{_ROWS} fixed rows of {len(PROBE)} types: legacy {figures[0]}; base {figures[1]}"
            + (f"; different for {listed(odd)}" if odd else ""),
            good=equal,
            remedy="equal rows would look different, so that nothing can be proven: use servers with the same byte"
            " order and encoding, and unpatched builds of PostgreSQL",
        )
    ]


def probe_fingerprint(connection: Connected, probe: tuple[ProbeColumn, ...]) -> Fingerprint:
    """Return the fingerprint of the fixed rows of these columns; reads no table."""
    names = [f"c{number}" for number in range(len(probe))]
    rows = sql.SQL(", ").join(
        sql.SQL("({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(
                    sql.Literal(column.values[row] if row < len(column.values) else None), raw_sql(column.type_name)
                )
                for column in probe
            )
        )
        for row in range(_ROWS)
    )
    query = sql.SQL(
        "SELECT count(*), sum(hashtextextended(h, {a})), sum(hashtextextended(h, {b}))"
        " FROM (SELECT {hash} AS h FROM (VALUES {rows}) AS probe ({names})) AS rows"
    ).format(
        a=SEEDS[0],
        b=SEEDS[1],
        hash=row_hash(tuple(column.column(name) for column, name in zip(probe, names, strict=True))),
        rows=rows,
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
    )
    return Fingerprint.from_row(*require_row(connection.execute(query).fetchone(), "the probe's fingerprint"))


def run_row_hash(connection: Connected, description: TableDescription) -> None:
    """Run the row hash of the real columns over one row of NULLs, which needs no row in the table.

    Raises:
        psycopg.Error: This server cannot run it.
    """
    # Even for a NULL the server looks up the hash function of each column's type, and fails where there is none. The
    # one row has no columns of its own, so that no name can collide with the table's.
    query = sql.SQL("SELECT {hash} FROM (SELECT) AS one LEFT JOIN {table} ON false").format(
        hash=row_hash(hashed_columns(description)),
        table=table_name(description.table),
    )
    connection.execute(query)


def _odd_types(legacy: Connected, base: Connected) -> list[str]:
    return [
        column.type_name
        for column in PROBE
        if probe_fingerprint(legacy, (column,)) != probe_fingerprint(base, (column,))
    ]
