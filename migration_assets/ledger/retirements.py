"""Retirements in the ledger: which slices left the root, how far each retirement is, and what was returned."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from psycopg.rows import dict_row

from migration_assets.domain.errors import SliceStateError
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState, require_slice_transition
from migration_assets.ledger.archives import ArchiveRecord
from migration_assets.ledger.chain import append_row
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.sessions import Connected, require_row

OnBegin = Callable[[Connected], None]
"""Called with the session on the base, in the transaction in which a step begins; an error cancels the step."""


class Step(StrEnum):
    """How far a retirement is. `detaching` is noted in advance: the leaf may still be in the root or in quarantine."""

    DETACHING = "detaching"
    QUARANTINED = "quarantined"
    DROPPED = "dropped"
    RETURNED = "returned"


@dataclass(frozen=True)
class Retirement:
    """One retirement of a slice; `drop_after` is by this program's clock, which a setting can replace."""

    id: int
    relation: str
    archive_id: int
    step: Step
    run_id: str | None
    begun_at: datetime
    quarantined_at: datetime | None
    drop_after: datetime | None
    dropped_at: datetime | None
    returned_at: datetime | None

    @property
    def under_way(self) -> bool:
        """Whether its rows are still in the base: in quarantine, or about to be moved there."""
        return self.step in {Step.DETACHING, Step.QUARANTINED}


def is_over(step: Step | None, drop_after: datetime | None, now: datetime) -> bool:
    """Whether a slice is in quarantine and its quarantine has ended, so that it may be dropped."""
    return step is Step.QUARANTINED and drop_after is not None and drop_after <= now


def read_retirement(base: Connected, relation: str, week: FiscalWeek) -> Retirement | None:
    """The slice's newest retirement, or None if there never was one."""
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT id, relation, archive_id, step, run_id, begun_at, quarantined_at, drop_after, dropped_at,"
            " returned_at FROM migration.retirements WHERE relation = %s AND quarter = %s AND week = %s"
            " ORDER BY id DESC LIMIT 1",
            [relation, week.quarter.key, week.name],
        ).fetchone()
    return None if row is None else _record(row)


def _record(row: dict[str, Any]) -> Retirement:
    fields: dict[str, Any] = {**row, "step": Step(row["step"])}
    return Retirement(**fields)


def begin_retirement(
    base: Connected,
    record: SliceRecord,
    archive: ArchiveRecord,
    run_id: str | None,
    on_begin: OnBegin | None = None,
) -> int:
    """Note the intent: from this commit on no step makes, joins or archives the leaf anew.

    Args:
        base: Not in a transaction; it holds the slice's lock.
        record: The slice, read under that lock.
        archive: The archive that holds the rows from now on.
        run_id: The Dagster run, which is recorded.
        on_begin: Called in the transaction; if it raises, nothing is done.

    Returns:
        The retirement's id.

    Raises:
        SliceStateError: The slice is no longer archived.
    """
    require_slice_transition(record.state, SliceState.RETIRED, where=record.week.key)
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        if on_begin is not None:
            on_begin(base)
        changed = base.execute(
            # A week that was never released had no stream; a stream that begins later does not cover it.
            "UPDATE migration.slices SET state = 'retired', released_at = coalesce(released_at, clock_timestamp()),"
            " updated_at = clock_timestamp() WHERE lock_key = %s AND state = 'archived'",
            [record.lock_key],
        )
        if changed.rowcount != 1:
            raise SliceStateError(
                "the slice is no longer archived: another session changed it without holding its lock",
                where=record.week.key,
                state_left="nothing was changed",
                next_step="see `migration-assets status`, then run this again",
            )
        row = base.execute(
            "INSERT INTO migration.retirements (relation, quarter, week, archive_id, step, run_id)"
            " VALUES (%s, %s, %s, %s, 'detaching', %s) RETURNING id",
            [record.relation, record.week.quarter.key, record.week.name, archive.id, run_id],
        ).fetchone()
        number = int(require_row(row, "a new retirement")[0])
        append_row(base, record.relation, ChainKind.DETACHING, number)
    return number


def note_quarantined(
    base: Connected, retirement: Retirement, archive_id: int, *, now: datetime, until: datetime
) -> None:
    """Note that the leaf lies in quarantine; in the transaction that moves it there."""
    base.execute(
        "UPDATE migration.retirements SET step = 'quarantined', archive_id = %s, quarantined_at = %s, drop_after = %s"
        " WHERE id = %s",
        [archive_id, now, until, retirement.id],
    )
    append_row(base, retirement.relation, ChainKind.QUARANTINED, retirement.id)


def note_dropped(base: Connected, retirement: Retirement, *, now: datetime) -> None:
    """Note that the rows are in the archive alone; in the transaction that drops the leaf."""
    base.execute("SET LOCAL synchronous_commit = on")
    base.execute(
        "UPDATE migration.retirements SET step = 'dropped', dropped_at = %s WHERE id = %s", [now, retirement.id]
    )
    append_row(base, retirement.relation, ChainKind.DROPPED, retirement.id)


def note_returned(
    base: Connected,
    record: SliceRecord,
    retirement: Retirement,
    found: Fingerprint,
    *,
    equal: bool,
    now: datetime,
    seconds: float,
    run_id: str | None,
) -> None:
    """Note that the leaf is in the root again, archived and not under CDC; in the transaction that attaches it."""
    require_slice_transition(record.state, SliceState.ARCHIVED, where=record.week.key)
    base.execute(
        "UPDATE migration.retirements SET step = 'returned', returned_at = %s WHERE id = %s", [now, retirement.id]
    )
    base.execute(
        "UPDATE migration.slices SET state = 'archived', updated_at = clock_timestamp() WHERE lock_key = %s",
        [record.lock_key],
    )
    row = base.execute(
        "INSERT INTO migration.restores (relation, quarter, week, archive_id, kind, rows, equal, seconds, run_id,"
        " restored_at) VALUES (%s, %s, %s, %s, 'return', %s, %s, %s, %s, %s) RETURNING id",
        [record.relation, record.week.quarter.key, record.week.name, retirement.archive_id, found.rows, equal, seconds,
         run_id, now],
    ).fetchone()  # fmt: skip
    append_row(base, record.relation, ChainKind.RETURNED, retirement.id)
    append_row(base, record.relation, ChainKind.RESTORE, int(require_row(row, "a new restore")[0]))
