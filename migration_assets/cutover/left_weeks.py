"""Weeks that left the base: says exactly, and cheaply, whether the legacy still has what the archive of each holds.

Each week is read in full once, while everybody writes, in a snapshot of its own. Later it is enough to look for changes
since that snapshot. A change makes a new version of its row, whose `xmin` is the transaction that made it; and a
version that was there before can only go by an update or a delete. So nothing changed if no row's `xmin` is equal to or
later than the snapshot's oldest running transaction, and there are as many rows as then:

- Everything from the oldest running transaction on counts as new, even if the snapshot saw it. So running, prepared and
  sub-transactions need no check of their own: the id of a sub-transaction is higher than its parent's.
- Freezing leaves `xmin` as it was, and VACUUM removes only versions that nobody can see. The id of a very old row, from
  before a wraparound, may be taken for a new one, but never the other way round.
- What writes all row versions anew (a rewrite, CLUSTER, VACUUM FULL, TRUNCATE) makes a new file, and that is noticed.

Where any of this is in doubt, the week is read in full again.
"""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql

from migration_assets.domain.fingerprint import METHOD, Fingerprint
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_description import TableDescription
from migration_assets.ledger.archives import ArchiveRecord, read_archives
from migration_assets.ledger.slices import SliceRecord
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import hashed_columns, in_range, take_fingerprint
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.snapshots import hold_tables
from migration_assets.postgres.sql_text import table_name
from migration_assets.retirement.checks import difference
from migration_assets.stream.plan import StreamPlan

_MOMENT_SECONDS = 1.0
# Transaction ids that lie further apart than this cannot be compared by their age.
_COMPARABLE = 2**30
# Only for a heap without children: the rule above holds for nothing else.
_FILE = """
SELECT CASE WHEN c.relkind = 'r' AND a.amname = 'heap' AND NOT c.relhassubclass THEN pg_relation_filenode(c.oid) END,
       pg_snapshot_xmin(pg_current_snapshot())::text
FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam WHERE c.oid = to_regclass(%s)
"""


@dataclass(frozen=True)
class LeftWeek:
    """A week that has no leaf any more, with its archive; None where there is no archive."""

    record: SliceRecord
    archive: ArchiveRecord | None

    @property
    def archive_id(self) -> int | None:
        """The key of what was found; an archive that was made anew has another one."""
        return self.archive.id if self.archive else None


@dataclass(frozen=True)
class AsFound:
    """What the legacy had of a week that left, in one snapshot.

    Attributes:
        week: The week and its archive.
        legacy: The fingerprint of its rows on the legacy.
        description: The legacy's table at that time.
        file: The table's file; None where the table is of a kind whose changes only a full read can tell.
        horizon: The id of the oldest transaction that ran at the snapshot, with its epoch.
    """

    week: LeftWeek
    legacy: Fingerprint
    description: TableDescription
    file: int | None
    horizon: str

    @property
    def wrong(self) -> str | None:
        """Describe how the legacy differs from the archive; None where it does not."""
        return why_not_archived(self.week, self.legacy)


def why_not_archived(week: LeftWeek, legacy: Fingerprint) -> str | None:
    """Describe how the legacy differs from the archive of a week that left the base; None where it does not."""
    key, archive = week.record.week.key, week.archive
    if archive is None and not legacy.rows:
        return None
    if archive is None:
        return f"{key} has left the base without an archive, and the legacy has {legacy.rows:,} rows of it"
    if archive.method != METHOD:
        return f"{key}: its archive was fingerprinted by method {archive.method}, not {METHOD}"
    if archive.native != legacy:
        return f"{key}: the legacy has {difference(legacy, archive.native)} the archive"
    return None


def has_left(record: SliceRecord) -> bool:
    """Whether the week is done with: its rows are in its archive, wherever its leaf is."""
    return record.state is SliceState.RETIRED or record.released is not None


def left_weeks(base: Connected, relation: str, records: Iterable[SliceRecord]) -> list[LeftWeek]:
    """The weeks that left the base, with their archives."""
    archives = {archive.week: archive for archive in read_archives(base, relation)}
    return [LeftWeek(record, archives.get(record.week)) for record in records]


def read_left(legacy: Connected, plan: StreamPlan, week: LeftWeek) -> AsFound:
    """Read all rows that the legacy has of the week, in a snapshot of its own."""
    with _looking(legacy, plan) as (description, file, horizon):
        found = take_fingerprint(
            legacy, plan.spec.table, hashed_columns(description), _range(plan, description, week.record)
        )
    return AsFound(week, found, description, file, horizon)


def is_unchanged(legacy: Connected, plan: StreamPlan, before: AsFound) -> bool:
    """Whether the week is known to be unchanged since then; reads the versions of its rows, not their values."""
    return bool(unchanged(legacy, plan, [before], before_each=lambda: None))


def unchanged(
    legacy: Connected, plan: StreamPlan, before: Iterable[AsFound], *, before_each: Callable[[], object]
) -> set[int]:
    """The lock keys of those weeks that are known to be unchanged since then; see `is_unchanged`.

    Many in one transaction, since its beginning takes longer than the look at a small week; but no longer than a
    moment, since an ALTER TABLE would wait for it, and all writers behind that.
    """
    todo = list(before)
    same: set[int] = set()
    while todo:
        with _looking(legacy, plan) as (description, file, horizon):
            until = time.monotonic() + _MOMENT_SECONDS
            while todo:
                before_each()
                one = todo.pop()
                if _is_same(legacy, plan, one, description, file, horizon):
                    same.add(one.week.record.lock_key)
                if time.monotonic() > until:
                    break
    return same


def _is_same(
    legacy: Connected, plan: StreamPlan, before: AsFound, description: TableDescription, file: int | None, horizon: str
) -> bool:
    if before.file is None or file != before.file or description != before.description:
        return False
    if int(horizon) - int(before.horizon) > _COMPARABLE:
        return False
    row = legacy.execute(
        sql.SQL("SELECT count(*), count(*) FILTER (WHERE age(xmin) <= age({}::xid8::xid)) FROM {} WHERE {}").format(
            sql.Literal(before.horizon), table_name(plan.spec.table), _range(plan, description, before.week.record)
        )
    ).fetchone()
    rows, newer = require_row(row, "a count")
    return bool(rows == before.legacy.rows and not newer)


def state_of_file(legacy: Connected, plan: StreamPlan) -> tuple[int | None, str]:
    """The table's file, and the oldest transaction that runs now; see `AsFound`."""
    with _looking(legacy, plan) as (_, file, horizon):
        return file, horizon


@contextmanager
def _looking(legacy: Connected, plan: StreamPlan) -> Generator[tuple[TableDescription, int | None, str]]:
    """One snapshot, opened after the table was locked against rewrites; yields its description, file and horizon."""
    with legacy.transaction():
        legacy.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        hold_tables(legacy, [plan.spec.table])
        file, horizon = require_row(legacy.execute(_FILE, [str(plan.spec.table)]).fetchone(), "the table's file")
        yield require_table(legacy, plan.spec.table, "legacy"), file, str(horizon)


def _range(plan: StreamPlan, description: TableDescription, record: SliceRecord) -> sql.Composed:
    kind = description.control_kind(plan.spec.control_column)
    return in_range(plan.spec.control_column, plan.calendar.bound_values(record.week, kind))
