"""Finds the one kind of value that no text can carry: NaN with other bits than PostgreSQL's own.

Such a NaN comes from arithmetic (`'Infinity' - 'Infinity'` has the sign set on most machines) or from a client that
sent its bits. It is written as `NaN`, and read back with PostgreSQL's bits: the native fingerprint, which sees bits,
would not be the same after a restore. Found when the slice is archived, not when it is needed.
"""

import re

from psycopg import sql

from migration_assets.domain.stored_columns import Storage, StoredColumn
from migration_assets.domain.table_description import Column, Hashing
from migration_assets.postgres.sql_text import raw_sql

# PostgreSQL's own types that hold floats and whose bytes the native fingerprint sees.
_HOLD_FLOATS = re.compile(r"(real|double precision|point|line|lseg|box|path|polygon|circle)(\[\])?")


def odd_nan_condition(column: StoredColumn, hashed: Column) -> sql.Composed | None:
    """Whether a value's bits would not come back from its text; None where the type cannot hold a NaN."""
    base_type = hashed.base_type or hashed.type_name
    if hashed.hashing is not Hashing.SEND or _HOLD_FLOATS.fullmatch(base_type) is None:
        return None
    name, send = sql.Identifier(column.name), raw_sql(hashed.send_function or "")
    if column.storage is Storage.FLOAT:
        return sql.SQL("{c} = 'NaN' AND {send}({c}) <> {send}({type} 'NaN')").format(
            c=name, send=send, type=raw_sql(base_type)
        )
    # Only where there is a NaN at all: parsing every value again would take longer than all the rest.
    return sql.SQL(
        "CASE WHEN strpos(format('%s', {c}), 'NaN') > 0 THEN {send}({c}) <> {send}(format('%s', {c})::{type}) END"
    ).format(c=name, send=send, type=raw_sql(base_type))
