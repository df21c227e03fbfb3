"""Measures how fast rows can be moved: from copies that the ledger knows, else from a short timed reading."""

import time
from dataclasses import dataclass

from psycopg import errors, sql

from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.ledger.own_objects import ledger_has
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.physical_order import PhysicalOrder
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import table_name
from migration_assets.preflight.plan import Subject
from migration_assets.preflight.wording import milliseconds, size

# A copy with primary key, index and both fingerprints took 4.5 times as long as reading the same million rows of
# 850 bytes (10.3 s against 2.3 s, two copies on two shared cores). One part of it is the reading itself.
_WORK_PER_READING = 4.5
_REPRESENTATIVE_BYTES = 16_000_000
_GUESSED_ROW_BYTES = 1000


@dataclass(frozen=True)
class Speed:
    """What one copy alone achieves.

    Args:
        bytes_per_second: Of heap and TOAST.
        whole_copies: Whether the figure is of whole copies, disorder on disk included, or of reading alone.
        representative: Whether enough was measured to judge a rate by.
        evidence: What was measured and what is assumed.
    """

    bytes_per_second: float
    whole_copies: bool
    representative: bool
    evidence: str

    def seconds_for(self, total: float, amplification: float, copies: int) -> float:
        """How long `copies` at once take for `total` bytes."""
        work = 1.0 if self.whole_copies else amplification + _WORK_PER_READING - 1.0
        return total * work / (self.bytes_per_second * copies)


def measured_speed(base: Connected, relation: str) -> Speed | None:
    """From the copies in the ledger; None where there are none worth counting."""
    if not ledger_has(base, "slices"):
        return None
    copies = [r for r in read_slices(base, relation) if r.table_bytes and r.base and r.base.rows and _seconds(r) > 0]
    if not copies:
        return None
    total = sum(record.table_bytes or 0 for record in copies)
    seconds = sum(_seconds(record) for record in copies)
    return Speed(
        total / seconds,
        whole_copies=True,
        representative=total >= _REPRESENTATIVE_BYTES,
        evidence=f"the ledger has {len(copies)} copies of {size(total)} in {seconds:,.1f} s: {size(total / seconds)}/s"
        " a copy, with indexes and both fingerprints",
    )


def sample_speed(legacy: Connected, subject: Subject, order: PhysicalOrder, quarter: FiscalQuarter) -> Speed | None:
    """COPY some rows of the quarter to nowhere; None where not one row came in time."""
    plan, spec, description = subject.plan, subject.spec, subject.description
    row_bytes = order.bytes_per_row or _GUESSED_ROW_BYTES
    where: sql.Composable = sql.SQL("true")
    if order.control_index is not None:
        bounds = subject.calendar.bound_values(quarter, description.control_kind(spec.control_column))
        where = in_range(spec.control_column, bounds)
    query = sql.SQL("COPY (SELECT {} FROM {} WHERE {} LIMIT {}) TO STDOUT (FORMAT {})").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in description.copied_columns),
        table_name(spec.table),
        where,
        sql.Literal(max(1, int(plan.sample_bytes / row_bytes))),
        sql.SQL("binary" if description.binary_copy else "text"),
    )
    messages = wire = 0
    start = time.perf_counter()
    try:
        with legacy.transaction(force_rollback=True):
            # The server ends the sample: it sees the time pass even while it finds no row to send.
            legacy.execute("SELECT set_config('statement_timeout', %s, true)", [milliseconds(plan.sample_seconds)])
            with legacy.cursor() as cursor:
                with cursor.copy(query) as rows:
                    for message in rows:
                        messages += 1
                        wire += len(message)
                # The server's own count knows no header and no trailer; there is none when time ran out.
                messages = cursor.rowcount
    except errors.QueryCanceled:
        pass
    seconds = time.perf_counter() - start
    if not wire or not messages:
        return None
    read = messages * row_bytes
    return Speed(
        read / seconds,
        whole_copies=False,
        representative=read >= _REPRESENTATIVE_BYTES,
        evidence=f"a sample of {messages:,} rows ({size(wire)} on the wire, {size(read)} on disk) was read in"
        f" {seconds:.2f} s: {size(read / seconds)}/s, from a cache that may have been warm. Writing, indexes and both"
        f" fingerprints are taken to cost {_WORK_PER_READING - 1:g} times as much again, as measured elsewhere",
    )


def _seconds(record: SliceRecord) -> float:
    """Time that the copy took: the legacy's fingerprint runs beside the base's indexes and fingerprint."""
    phases = dict(record.seconds)
    beside = phases.pop("legacy fingerprint", 0.0)
    on_base = phases.pop("indexes", 0.0) + phases.pop("base fingerprint", 0.0)
    return sum(phases.values()) + max(beside, on_base)
