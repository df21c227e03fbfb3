"""Measures how the table is ordered on disk, and how many extra pages a range of the control column reads."""

from dataclasses import dataclass

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.catalogue import relation_oid
from migration_assets.postgres.sessions import Connected, require_row

_BRIN_PAGES_PER_RANGE = 128

# reltuples and relpages belong together: their ratio is the density that the last ANALYZE saw. Multiplied by the
# present number of pages it gives the planner's estimate of the rows. Where ANALYZE never ran, neither says anything.
_QUERY = """
SELECT c.reltuples::float8, c.relpages,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint,
       pg_table_size(c.oid), pg_indexes_size(c.oid), s.correlation::float8, i.name, i.pages_per_range
FROM pg_class c
LEFT JOIN LATERAL (
    SELECT st.correlation FROM pg_stats st
    WHERE st.schemaname = %(schema)s AND st.tablename = %(table)s AND st.attname = %(column)s
    ORDER BY st.inherited LIMIT 1
) s ON true
LEFT JOIN LATERAL (
    SELECT ic.relname::text AS name,
           CASE WHEN am.amname = 'brin' THEN coalesce((
               SELECT o.option_value::int FROM pg_options_to_table(ic.reloptions) o
               WHERE o.option_name = 'pages_per_range'), %(brin_default)s) END AS pages_per_range
    FROM pg_index x
    JOIN pg_class ic ON ic.oid = x.indexrelid
    JOIN pg_am am ON am.oid = ic.relam AND am.amname IN ('btree', 'brin')
    JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0] AND a.attname = %(column)s
    WHERE x.indrelid = c.oid AND x.indisvalid AND x.indisready AND x.indpred IS NULL
    ORDER BY am.amname DESC, x.indnkeyatts, ic.relname LIMIT 1
) i ON true
WHERE c.oid = %(oid)s
"""


@dataclass(frozen=True)
class PhysicalOrder:
    """Sizes, density and order of one table.

    Args:
        rows: The planner's estimate; None where the table was never analyzed.
        pages: Of the heap alone, exact.
        table_bytes: Heap and TOAST, exact.
        index_bytes: All indexes, exact.
        correlation: Of the control column with the place on disk, -1..1; None where unknown or not visible to our role.
        control_index: A valid, complete btree or BRIN index that begins with the control column, if there is one.
        pages_per_range: Of that index where it is a BRIN index, which finds ranges of pages; else None.
    """

    rows: int | None
    pages: int
    table_bytes: int
    index_bytes: int
    correlation: float | None
    control_index: str | None
    pages_per_range: int | None = None

    @property
    def bytes_per_row(self) -> float | None:
        """Heap and TOAST bytes per row; None where the table is empty or its rows are unknown."""
        return self.table_bytes / self.rows if self.rows else None

    def read_amplification(self, fraction: float) -> float:
        """Estimate how many times too many pages are read for a range of the control column.

        The estimate weighs perfect and random order by the correlation squared, as the planner does. A page counts
        once: the cache is assumed to hold what one range touches. What is unknown counts as the worst case.

        Args:
            fraction: The range's share of the rows, 0..1.

        Returns:
            Pages read over pages needed; 1.0 is perfect.
        """
        if self.pages <= 1 or fraction <= 0:
            return 1.0
        fraction = min(fraction, 1.0)
        ideal = max(1.0, fraction * self.pages)
        if self.control_index is None or not self.rows:
            return self.pages / ideal
        unit = min(self.pages_per_range or 1, self.pages)
        rows_per_unit = max(1.0, self.rows / self.pages * unit)
        # A unit of pages stays unread only when none of its rows is wanted.
        random = self.pages * (1.0 - (1.0 - fraction) ** rows_per_unit)
        order = (self.correlation or 0.0) ** 2
        return max(1.0, (order * ideal + (1.0 - order) * random) / ideal)


def read_physical_order(connection: Connected, table: QualifiedName, control_column: str) -> PhysicalOrder:
    """Read the table's sizes and order from the catalogue and the statistics; reads no row of the table.

    Raises:
        TableSpecError: There is no such table.
    """
    oid = relation_oid(connection, table)
    if oid is None:
        raise TableSpecError(
            "the table does not exist",
            where=str(table),
            state_left="nothing was touched",
            next_step="set MIGRATION_TABLE, quoted as in SQL",
        )
    row = connection.execute(
        _QUERY.encode(),
        {
            "oid": oid,
            "schema": table.schema,
            "table": table.name,
            "column": control_column,
            "brin_default": _BRIN_PAGES_PER_RANGE,
        },
    ).fetchone()
    tuples, seen_pages, pages, table_bytes, index_bytes, correlation, index, pages_per_range = require_row(
        row, "the physical order of a table"
    )
    return PhysicalOrder(
        rows=_rows(float(tuples), int(seen_pages), int(pages)),
        pages=int(pages),
        table_bytes=int(table_bytes),
        index_bytes=int(index_bytes),
        correlation=correlation,
        control_index=index,
        pages_per_range=pages_per_range,
    )


def _rows(tuples: float, seen_pages: int, pages: int) -> int | None:
    if pages == 0:
        return 0
    if tuples < 0 or seen_pages == 0:
        return None
    return round(tuples / seen_pages * pages)
