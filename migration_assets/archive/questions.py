"""What a question may be: one SELECT over the table, and nothing that reads or writes anything else.

DuckDB itself can read and write files, ask and change attached databases, and show settings, all inside of a SELECT.
A question is parsed by DuckDB's own parser, and everything that it reads from is looked at: the table, its own WITH
queries and functions that make rows of their arguments. Every other function that it calls computes from its arguments
alone (`question_functions`): some tell of settings, or how the table is put together. The session has further bars
(`query_engine`): this one is the first, and says what is wrong.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import duckdb

from migration_assets.archive.question_functions import COMPUTING
from migration_assets.domain.errors import ArchiveError

# They make rows of what they are given; every other one reads something.
_ROWS_OF_ARGUMENTS = frozenset({
    "generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest",
})  # fmt: skip
_EXAMPLE = "SELECT fiscal_quarter, count(*) FROM {table} GROUP BY ALL"
_PLAIN_NAME = re.compile(r"\w+")
# Views and tables of DuckDB's own; no WITH query may be taken for one.
_OWN_NAMES = re.compile(r"(duckdb|pragma|sqlite|pg)_|__")


def require_question(duck: duckdb.DuckDBPyConnection, statement: str, schema: str, table: str) -> str:
    """The statement without its semicolon, if it is a question.

    Args:
        duck: Any session; its parser is asked, and nothing is run.
        statement: What somebody wrote.
        schema: Of the table.
        table: The only one that may be read.

    Raises:
        ArchiveError: It is not exactly one SELECT, or reads from something else; names what.
    """
    try:
        found = duckdb.extract_statements(statement)
        if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
            raise _refused("a question is one SELECT", table)
        text = found[0].query.strip().rstrip(";")
        row = duck.execute("SELECT json_serialize_sql(?)", [text]).fetchone()
    except duckdb.Error as error:
        raise ArchiveError(
            str(error).strip(), where="query", state_left="nothing was touched", next_step="correct the statement"
        ) from None
    tree = json.loads(row[0]) if row else {"error": True}
    if tree.get("error"):
        raise _refused("a question is one SELECT, and not a PRAGMA or SHOW", table)
    nodes = list(_nodes(tree))
    own = {name.lower() for name in _named_queries(nodes)}
    for node in nodes:
        _require_harmless(node, own, schema, table)
    return text


_Node = dict[str, Any]


def _nodes(value: object) -> Iterator[_Node]:
    if isinstance(value, dict):
        node = cast("_Node", value)
        yield node
        for part in node.values():
            yield from _nodes(part)
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _nodes(part)


def _named_queries(nodes: list[_Node]) -> Iterator[str]:
    for node in nodes:
        named = cast("dict[str, list[_Node]]", node.get("cte_map") or {})
        yield from (str(entry["key"]) for entry in named.get("map", []))


def _require_harmless(node: _Node, own: set[str], schema: str, table: str) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        name, home = str(node["table_name"]).lower(), str(node.get("schema_name") or "").lower()
        ours = name == table.lower() and home in {"", "main", schema.lower()}
        with_query = not home and name in own and _PLAIN_NAME.fullmatch(name) and not _OWN_NAMES.match(name)
        if node.get("catalog_name") or not (ours or with_query):
            raise _refused(f"a question is about {table} alone, and not about {_shown(node)}", table)
    elif kind == "TABLE_FUNCTION":
        name = str(node["function"]["function_name"]).lower()
        if name not in _ROWS_OF_ARGUMENTS:
            raise _refused(f"a question calls no {name}(): it would read something else than {table}", table)
    elif kind == "SHOW_REF" and node.get("query") is None:
        raise _refused(f"a question is about {table} alone: DESCRIBE {table} tells its columns", table)
    elif node.get("class") in {"FUNCTION", "WINDOW"}:
        name = str(node["function_name"]).lower()
        if name not in COMPUTING | _ROWS_OF_ARGUMENTS:
            raise _refused(f"a question calls no {name}(): it is not known to compute from its arguments alone", table)


def _shown(node: _Node) -> str:
    parts = (node.get("catalog_name"), node.get("schema_name"), node.get("table_name"))
    return ".".join(str(part) for part in parts if part)


def _refused(what: str, table: str) -> ArchiveError:
    return ArchiveError(
        what,
        where="query",
        state_left="nothing was touched",
        next_step=f"write it like: {_EXAMPLE.format(table=table)}",
    )
