"""Proves on values of the legacy that a type of the user's means the same on both servers: text, hash and order."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg import errors, sql

from migration_assets.domain.findings import Area, Finding
from migration_assets.domain.table_description import Column, TableDescription
from migration_assets.postgres.fingerprints import hash_input
from migration_assets.postgres.server_messages import shown_message
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.preflight.wording import judge, listed

_BLOCKS = 50
_VALUES = 200


def examine_values(legacy: Connected, base: Connected, description: TableDescription) -> list[Finding]:
    """Some values of each column whose type or collation is not the system's, through both servers.

    Values come from the table's first and last blocks, which no index is needed for. None of them is shown.
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
            or f"{tried} values of {len(columns)} columns with types or collations of your own mean the"
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
    """Texts and hashes of the values, and the places in which they sort; None where the type has no order."""
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
        return seen, hashes, None  # a type without an order, on both sides
    return seen, hashes, require_row(row, "an order")[0]
