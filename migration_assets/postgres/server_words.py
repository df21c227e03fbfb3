"""What may be shown of a server's messages: the words that PostgreSQL wrote itself, and never a value of a row.

Its messages quote values at their end, and so do the lines below them: DETAIL has whole rows, CONTEXT a line of a COPY.
Errors of ours go into the ledger, Dagster's event log, alerts and terminals.
"""

import re

import psycopg

_NAME = r'"[^"]{1,200}"'
_TARGET = rf"logical replication target relation {_NAME}"
# What may be shown; a message that begins otherwise is not. Each pattern ends before a value can begin.
_MESSAGES = (
    rf"conflict detected on relation {_NAME}: conflict=\w+",
    rf"duplicate key value violates unique constraint {_NAME}",
    rf"new row for relation {_NAME} violates check constraint {_NAME}",
    rf"null value in column {_NAME} of relation {_NAME} violates not-null constraint",
    r"domain [\w.]+ does not allow null values",
    rf"value for domain [\w.]+ violates check constraint {_NAME}",
    rf"insert or update on table {_NAME} violates foreign key constraint {_NAME}",
    rf"no partition of relation {_NAME} found for row",
    rf"{_TARGET} does not exist",
    rf"{_TARGET} is missing replicated columns?: {_NAME}(, {_NAME})*",
    rf"{_TARGET} has incompatible generated columns?: {_NAME}(, {_NAME})*",
    rf"publisher did not send replica identity column expected by the {_TARGET}",
    r"invalid input value for enum [\w.]+",
    r"invalid input syntax for type [\w ]+",
    r"malformed (record|array|range|multirange) literal",
    r"value too long for type [\w ]+\(\d+\)",
    r"numeric field overflow",
    r"(smallint|integer|bigint) out of range",
    r"incorrect binary data format( in logical replication column \d+)?",
    r"permission denied for (table|schema|sequence|function|type|language) [\w.]+",
    rf"(relation|schema|type|function|column|role|collation) {_NAME} does not exist",
    r"could not (connect to the publisher|start WAL streaming|receive data from WAL stream)",
    rf"(replication slot|publication) {_NAME} does not exist",
)
_SHOWN = re.compile("|".join(_MESSAGES))
# Data exceptions, broken constraints, and whatever a function raised: their texts are made of values.
_TOLD_WITH_VALUES = ("22", "23", "P0")


def shown_message(message: str) -> str | None:
    """The part of a server's message that can hold no value; None where it is not known that there is one."""
    found = _SHOWN.match(message)
    return found.group() if found else None


def conceal(error: psycopg.Error) -> None:
    """Let the error's text say what is wrong, and where, without a value of the rows; whoever shows it may then.

    What it is made of (`diag`) stays: it is for whoever looks for it on purpose.
    """
    said = error.diag.message_primary
    if said is None:
        return  # libpq's own: of connections
    if (error.sqlstate or "").startswith(_TOLD_WITH_VALUES):
        names = (
            ("constraint", error.diag.constraint_name),
            ("column", error.diag.column_name),
            ("table", error.diag.table_name),
        )
        where = ", ".join(f"{what} {name}" for what, name in names if name)
        said = shown_message(said) or type(error).__name__
        said += f" ({where})" if where else ""
        error.args = (f"{said}; the server's log has the rest",)
        return
    lines = (("DETAIL:  ", error.diag.message_detail), ("HINT:  ", error.diag.message_hint))
    error.args = ("\n".join([said, *(name + text for name, text in lines if text)]),)
