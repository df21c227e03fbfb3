"""The ledger's rows of repairs: what was changed, and under which number its images of before are kept."""

from collections.abc import Generator
from contextlib import contextmanager

from psycopg import errors

from migration_assets.domain.differences import Differences
from migration_assets.domain.errors import LedgerError
from migration_assets.postgres.ledger import SliceRecord
from migration_assets.postgres.sessions import Connected, require_row


def begin_repair(base: Connected, record: SliceRecord, *, marker: int | None, lsn: str, run_id: str | None) -> int:
    """Its number; `marker` is None at a slot's own snapshot."""
    row = base.execute(
        "INSERT INTO migration.repairs (relation, quarter, week, marker, lsn, missing, extra, changed, run_id)"
        " VALUES (%s, %s, %s, %s, %s, 0, 0, 0, %s) RETURNING id",
        [record.relation, record.week.quarter.key, record.week.name, marker, lsn, run_id],
    ).fetchone()
    return int(require_row(row, "a new repair")[0])


def end_repair(base: Connected, repair_id: int, differences: Differences) -> int | None:
    """Note what it changed; one that changed nothing is none."""
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
    """The body puts images of before back into a table that may have changed since.

    Raises:
        LedgerError: They do not go in any more; names no value of a row.
    """
    try:
        yield
    except (errors.IntegrityError, errors.DataError) as error:
        name = error.diag.constraint_name or error.diag.column_name
        raise LedgerError(
            f"what repair {repair_id} changed cannot be put back as it was: {type(error).__name__}"
            f"{f' ({name})' if name else ''}. Its rows, or the table, were changed since: a row may be in another week"
            " by now",
            where=where,
            state_left="nothing was changed; the images of before stay in migration.repaired_rows",
            next_step="look at them (that table's rows of this repair_id), and change by hand what is still wrong, on"
            " the side that is in charge",
        ) from None
