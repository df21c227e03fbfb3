"""Ledger rows of repairs: what each one changed, and checks that its before-images were put back exactly."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import LiteralString

from psycopg import RawCursor, errors, sql

from migration_assets.domain.errors import LedgerError
from migration_assets.domain.fingerprint import Differences
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name
from migration_assets.stream.buckets import SliceRows
from migration_assets.stream.differences import Keys, key_matches, unnested


def begin_repair(base: Connected, record: SliceRecord, *, marker: int | None, lsn: str, run_id: str | None) -> int:
    """Begin a repair's record and return its number; `marker` is None at a slot's own snapshot."""
    row = base.execute(
        "INSERT INTO migration.repairs (relation, quarter, week, marker, lsn, missing, extra, changed, run_id)"
        " VALUES (%s, %s, %s, %s, %s, 0, 0, 0, %s) RETURNING id",
        [record.relation, record.week.quarter.key, record.week.name, marker, lsn, run_id],
    ).fetchone()
    return int(require_row(row, "a new repair")[0])


def end_repair(base: Connected, repair_id: int, differences: Differences) -> int | None:
    """Note what the repair changed; the record of one that changed nothing is deleted."""
    if not differences.rows:
        base.execute("DELETE FROM migration.repairs WHERE id = %s", [repair_id])
        return None
    base.execute(
        "UPDATE migration.repairs SET missing = %s, extra = %s, changed = %s WHERE id = %s",
        [differences.missing, differences.extra, differences.changed, repair_id],
    )
    return repair_id


@contextmanager
def images_fit(where: str, repair_id: int) -> Generator[None]:
    """Run the body, which puts images of before back into a table that may have changed since.

    Raises:
        LedgerError: The images no longer fit the table. The message contains no value of a row.
    """
    try:
        yield
    except (errors.IntegrityError, errors.DataError) as error:
        name = error.diag.constraint_name or error.diag.column_name
        raise LedgerError(
            f"what repair {repair_id} changed cannot be put back as it was: {type(error).__name__}"
            f"{f' ({name})' if name else ''}. Its rows or the table were changed since then: a row may be in another"
            " week by now",
            where=where,
            state_left="nothing was changed; the images of before stay in the ledger's table repaired_rows",
            next_step="look at them (that table's rows of this repair_id), and correct by hand what is still wrong, on"
            " the side that is in charge",
        ) from None


def require_put_back(
    connection: Connected, spec: TableSpec, description: TableDescription, images: Sequence[str], repair_id: int
) -> None:
    """Check, after images of rows were put back, that each is stored as it is, except for generated columns.

    Raises:
        LedgerError: A trigger or rule changed rows on their way in, or kept them out.
    """

    def each(form: LiteralString, names: Sequence[str], between: LiteralString) -> sql.Composed:
        return sql.SQL(between).join(sql.SQL(form).format(sql.Identifier(name)) for name in names)

    stored = [column.name for column in description.copied_columns]
    statement = sql.SQL(
        "SELECT count(*) FROM (SELECT one::{table} AS image FROM unnest($1::text[]) AS one) AS images"
        " JOIN {table} AS t ON {same} WHERE row({of_image})::text = row({of_row})::text"
    ).format(
        table=table_name(spec.table),
        same=sql.SQL(" AND ").join(
            sql.SQL("t.{0} {1} (images.image).{0}").format(sql.Identifier(name), raw_sql(description.equality(name)))
            for name in description.base_primary_key(spec.control_column)
        ),
        of_image=each("(images.image).{}", stored, ", "),
        of_row=each("t.{}", stored, ", "),
    )
    # Raw: a column's name may contain a percent sign, which psycopg would take for a placeholder.
    row = RawCursor(connection).execute(statement, [list(images)]).fetchone()
    _require_all(int(require_row(row, "a count")[0]), len(images), str(spec.table), repair_id)


def require_no_others(connection: Connected, rows: SliceRows, keys: Keys, images: int, repair_id: int) -> None:
    """Check, after images were put back, that the slice has exactly the rows of the repair's keys that it had before.

    Raises:
        LedgerError: As `require_put_back`.
    """
    row = connection.execute(
        # Two keys as texts may be one value: 1.0 and 1.00.
        sql.SQL("SELECT count(*) FROM {} AS t WHERE EXISTS (SELECT FROM {} WHERE {}) AND {}").format(
            table_name(rows.target), unnested(rows, keys), key_matches(rows), rows.where_of_t
        )
    ).fetchone()
    _require_all(int(require_row(row, "a count")[0]), images, str(rows.target), repair_id)


def _require_all(found: int, wanted: int, where: str, repair_id: int) -> None:
    if found == wanted:
        return
    raise LedgerError(
        f"what repair {repair_id} changed was not put back as it was: of {wanted:,} rows only {found:,} are there",
        where=where,
        state_left="nothing was changed; the images of before stay in the ledger's table repaired_rows",
        next_step="a trigger or rule changes rows, or keeps them in or out: look at those that are ENABLE ALWAYS or"
        " REPLICA, disable them, then run this again",
    )
