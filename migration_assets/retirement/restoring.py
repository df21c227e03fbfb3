"""A week back from its Parquet files, or only the proof that it could come back."""

import logging
from collections.abc import Callable

from migration_assets.archive.archiving import archive_store, reread_archive
from migration_assets.archive.csv_rows import csv_chunks
from migration_assets.archive.reading import slice_relation
from migration_assets.copying.copy_plan import CopyLimits
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.postgres.retries import retry_transient
from migration_assets.retirement.restoration import (
    Restoration,
    Restored,
    drill_restore,
    restore_slice,
)
from migration_assets.runtime import Migration

log = logging.getLogger(__name__)


def restore_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Restored:
    """Bring a retired week back from its archive, proven equal; see `restore_slice`.

    Raises:
        ArchiveError: The archive is not what was proven; nothing was restored.
        RestoreError: What came back is not what left.
    """
    return _restore(migration, week, run_id, restore_slice)


def drill_week(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Restored:
    """Restore the week into a scratch table, compare, and drop it; see `drill_restore`."""
    return _restore(migration, week, run_id, drill_restore)


def _restore(
    migration: Migration,
    week: FiscalWeek,
    run_id: str | None,
    restore: Callable[..., Restored],
) -> Restored:
    manifest = reread_archive(migration, week, run_id=run_id).manifest
    store = archive_store(migration)
    with store.connect_duckdb() as duck:
        plan = Restoration(
            spec=migration.spec,
            calendar=migration.calendar,
            week=week,
            columns=manifest.columns,
            chunks=lambda: csv_chunks(duck, slice_relation(store, manifest), manifest.columns),
            limits=CopyLimits.of(migration.settings),
            now=migration.now(),
            run_id=run_id,
        )
        return retry_transient(
            lambda: restore(migration.databases, plan),
            what=f"restore of {week.key}",
            attempts=migration.settings.retry_attempts,
            log=log,
        )
