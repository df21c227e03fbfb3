"""The demo's third part: the next quarter opens by itself; an old one is archived, retired, queried and restored."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import sql
from rich.console import Console

from migration_assets.archive.archiving import archive_store
from migration_assets.archive.manifest import table_folder
from migration_assets.archive.ownership import read_archive_writer, read_owner
from migration_assets.archive.querying import ask
from migration_assets.demo.cdc import CdcStory, FullComparison, approve, compare_everything, drain
from migration_assets.demo.copying import copy_weeks, materialize, run_job, tick
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fiscal_calendar import WEEKS_PER_QUARTER, FiscalQuarter, FiscalWeek
from migration_assets.ledger.archives import read_archives
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.steps import open_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.sql_text import table_name
from migration_assets.retirement.retiring import retire_week
from migration_assets.runtime import Migration
from migration_assets.terminal.figures import bytes_of

OLD = FiscalQuarter(2024, 3)
NEXT = FiscalQuarter(2025, 3)
STILL_WRITTEN = datetime(2023, 10, 1, tzinfo=UTC)
"""The end of FY24-Q3: the traffic no longer changes older bookings."""
NEXT_WEEK = datetime(2024, 7, 2, 12, tzinfo=UTC)
"""The traffic's present from then on, in the first week of FY25-Q3."""
_LATE_WEEK = 9
_RESTORED_WEEK = 5
# Sums of exact types, so that one lost or duplicated row or one changed price shows.
_QUESTION = (
    "SELECT fiscal_quarter, fiscal_week, count(*) AS bookings, sum(price) AS revenue, sum(id) AS ids"
    " FROM amenity_bookings WHERE fiscal_quarter = '{}' GROUP BY ALL ORDER BY ALL"
)


@dataclass
class ArchiveStory:
    """What the third part measured; everything else is in the ledger."""

    opened: list[str] = field(default_factory=list[str])
    rows_in_next: int = 0
    cdc: CdcStory = field(default_factory=CdcStory)
    copy_failures: dict[str, str] = field(default_factory=dict[str, str])
    archived: int = 0
    rows: int = 0
    leaf_bytes: int = 0
    archive_bytes: int = 0
    late_refused: str = ""
    retired: int = 0
    rows_asked: int = 0
    answers_equal: bool = False
    restored_rows: int = 0
    comparisons: dict[str, FullComparison] = field(default_factory=dict[str, FullComparison])

    @property
    def signed(self) -> bool:
        """Whether the old quarter was migrated, proven and signed off."""
        return self.cdc.signed

    @property
    def succeeded(self) -> bool:
        """Whether every step succeeded."""
        compared = bool(self.comparisons) and not any(one.differing for one in self.comparisons.values())
        return (
            self.opened == [NEXT.key]
            and self.signed
            and self.archived == self.retired == WEEKS_PER_QUARTER
            and bool(self.late_refused)
            and self.answers_equal
            and self.restored_rows > 0
            and self.rows_in_next > 0
            and compared
            and not self.cdc.failures
        )

    def compare(self, migration: Migration) -> None:
        """After the last write: compare the new quarter and the restored week with the legacy, row by row."""
        if self.signed:
            week = migration.calendar.weeks_of(OLD)[_RESTORED_WEEK - 1]
            self.comparisons = {str(period): compare_everything(migration, period) for period in (NEXT, week)}
            self.rows_in_next = self.comparisons[NEXT.key].rows


def clear_archive(migration: Migration) -> None:
    """Delete the archive of the base that the demo is about to recreate, but never what another base wrote.

    Raises:
        ArchiveError: The folder holds archives of another base.
    """
    store, relation = archive_store(migration), migration.spec.relation
    folder = table_folder(relation)
    if not store.list(folder):
        return
    with open_ledger(migration, "demo") as base:
        own = str(read_archive_writer(base, relation).identity)
    if read_owner(store, relation) != own:
        raise ArchiveError(
            "the folder holds archives that the embedded base did not write",
            where=store.url_of(folder),
            state_left="nothing was touched; the servers run",
            next_step="move them away, or delete them if they are of an earlier demo; then run the demo again",
        )
    store.delete_folder(folder)


def bring_in(console: Console, migration: Migration, pool: ProcessPoolExecutor, story: ArchiveStory) -> None:
    """Let the sensor open the next quarter, and migrate the oldest quarter into the running stream."""
    with console.status(f"quarter_opener looks ahead from {migration.now():%Y-%m-%d}"):
        for quarter, outcome in pool.submit(tick, "quarter_opener").result():
            if story.cdc.note(f"opening of {quarter}", outcome):
                story.opened.append(quarter)
    console.print(f"Opened by the sensor, under CDC before its first booking: {', '.join(story.opened) or 'nothing'}.")
    if not story.cdc.note(
        f"quarter_partitions {OLD.key}", pool.submit(materialize, "quarter_partitions", OLD).result()
    ):
        return
    copy_weeks(console, migration, OLD, pool, story.copy_failures)
    if story.copy_failures:
        return
    with console.status(f"{OLD.key} joins the running stream at a cut"):
        if not story.cdc.note("change_stream", pool.submit(materialize, "change_stream", OLD).result()):
            return
    # Unlike in the first quarter, no week is validated by itself: the reconciliation proves all 13 at one cut.
    approve(console, OLD, pool, story.cdc)


def tell_archive(console: Console, migration: Migration, pool: ProcessPoolExecutor, story: ArchiveStory) -> None:
    """Archive the old quarter, change a booking late, retire the quarter, query it, and restore a week."""
    weeks = migration.calendar.weeks_of(OLD)
    story.archived = _each(console, f"Archiving {OLD.key}", "archive_slices", weeks, pool, story)
    _come_late(console, migration, weeks[_LATE_WEEK - 1], pool, story)
    with migration.databases.session("base", "demo") as base:
        archives = read_archives(base, migration.spec.relation, OLD)
        records = read_slices(base, migration.spec.relation, OLD)
    story.rows = sum(one.native.rows for one in archives)
    story.archive_bytes = sum(one.bytes for one in archives)
    story.leaf_bytes = sum(bytes_of(record) for record in records)
    with console.status(f"Examining whether {OLD.key} may be retired, and getting the codes for it"):
        config = _retire_config(migration, *weeks)
    story.retired = _each(console, f"Retiring {OLD.key}", "retire_slices", weeks, pool, story, config)
    console.print(
        f"{OLD.key}: {story.archived} weeks in Parquet, read again by DuckDB, {story.retired} retired from the base:"
        f" {story.leaf_bytes / 1e6:,.1f} MB of leaves became {story.archive_bytes / 1e6:,.1f} MB."
    )
    truth = _truth(migration)
    with console.status("One query over the base and Parquet"):
        asked = ask(migration, _QUESTION.format(OLD.key))
        total = ask(migration, "SELECT fiscal_quarter, count(*) FROM amenity_bookings GROUP BY ALL ORDER BY ALL")
    story.answers_equal = asked.answer.rows == truth
    story.rows_asked = sum(int(row[1]) for row in total.answer.rows)
    spread = ", ".join(f"{quarter} {count:,}" for quarter, count in total.answer.rows)
    console.print(
        f"Queried {asked.hot_weeks} weeks in the base and {asked.cold_weeks} in Parquet as one table: {spread}."
        f" The figures of the archived quarter {'equal' if story.answers_equal else 'DIFFER from'} the legacy's."
    )
    week = weeks[_RESTORED_WEEK - 1]
    with console.status(f"Restoring {week.key} from its Parquet files"):
        if story.cdc.note(f"restore of {week.key}", pool.submit(run_job, "restore_slices", week).result()):
            story.restored_rows = next(one.native.rows for one in archives if one.week == week)
    console.print(f"Restored {week.key} from Parquet: {story.restored_rows:,} rows, proven by fingerprint.")


def _come_late(
    console: Console, migration: Migration, week: FiscalWeek, pool: ProcessPoolExecutor, story: ArchiveStory
) -> None:
    """Change a booking of a week after its archive and the look at it: the week must not leave with stale files."""
    spec, config = migration.spec, _retire_config(migration, week)
    with migration.databases.session("legacy", "demo late booking") as legacy:
        legacy.execute(
            sql.SQL("UPDATE {} SET guests = guests + 1 WHERE id = (SELECT min(id) FROM {} WHERE {})").format(
                table_name(spec.table), table_name(spec.table), _in_period(migration, week)
            )
        )
    drain(migration)
    with console.status(f"A late change in {week.key}"):
        outcome = pool.submit(run_job, "retire_slices", week, config).result()
        if outcome.success:
            story.cdc.failures.append(f"{week.key}: left the base although its archive was stale")
            return
        story.late_refused = next((line for line in outcome.error.splitlines() if "stale" in line), outcome.error)
        story.cdc.note(f"second archive of {week.key}", pool.submit(run_job, "archive_slices", week).result())
    console.print(
        f"A late change was noticed, and the week was archived again: {story.late_refused.strip(' -')}", markup=False
    )


def _retire_config(migration: Migration, *weeks: FiscalWeek) -> dict[str, Any]:
    """The configuration of the retiring runs, with the codes that dry runs of the weeks gave."""
    codes = [given.code for week in weeks if (given := retire_week(migration, week).confirmation) is not None]
    return {"retired_slice": {"dry_run": False, "confirm": " ".join(codes)}}


def _each(
    console: Console,
    what: str,
    job: str,
    weeks: tuple[FiscalWeek, ...],
    pool: ProcessPoolExecutor,
    story: ArchiveStory,
    config: dict[str, Any] | None = None,
) -> int:
    """Run the job for each week; the number of runs that succeeded."""
    done = 0
    with console.status(what) as status:
        for week, future in [(week, pool.submit(run_job, job, week, config)) for week in weeks]:
            done += story.cdc.note(f"{job} {week.key}", future.result())
            status.update(f"{what}: {done} of {len(weeks)} weeks")
    return done


def _truth(migration: Migration) -> list[tuple[Any, ...]]:
    """The answer that the query must give, computed on the legacy."""
    with migration.databases.session("legacy", "demo truth") as legacy:
        return [
            (
                week.quarter.key,
                week.name,
                *legacy.execute(
                    sql.SQL("SELECT count(*), sum(price), sum(id)::bigint FROM {} WHERE {}").format(
                        table_name(migration.spec.table), _in_period(migration, week)
                    )
                ).fetchall()[0],
            )
            for week in migration.calendar.weeks_of(OLD)
        ]


def _in_period(migration: Migration, week: FiscalWeek) -> sql.Composed:
    spec = migration.spec
    with migration.databases.session("base", "demo") as base:
        kind = require_table(base, spec.table, "base").control_kind(spec.control_column)
    return in_range(spec.control_column, migration.calendar.bound_values(week, kind))
