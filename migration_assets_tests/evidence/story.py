"""A signed quarter with everything that a pack can show: archives, departures, a return, and looks at the stream."""

from datetime import UTC, datetime, timedelta

from migration_assets.archive.archiving import archive_week
from migration_assets.domain.samples import StreamSample
from migration_assets.ledger.samples import store_sample
from migration_assets.retirement.restoring import drill_week
from migration_assets.retirement.retiring import bring_back
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import WEEKS, with_settings
from migration_assets_tests.confirmed_deeds import let_leave

BEGIN = datetime(2024, 6, 20, tzinfo=UTC)


def tell(migration: Migration) -> None:
    """W01 is only in its archive, W02 lies in quarantine, W03 came back, W04 is archived; a day and a half of looks."""
    for week in WEEKS[:4]:
        archive_week(migration, week)
    let_leave(with_settings(migration, quarantine_days=0), WEEKS[0])
    for week in WEEKS[1:3]:
        let_leave(migration, week)
    bring_back(migration, WEEKS[2])
    drill_week(migration, WEEKS[3])
    now = datetime.now(UTC)
    with migration.databases.session("base", "test") as base:
        for number in range(900):
            lag = None if 300 < number < 330 else 0.02 + (number * 7919 % 50) / 400 + (2.5 if number == 500 else 0)
            at = now + timedelta(minutes=2 * number)
            store_sample(base, StreamSample(migration.spec.relation, at, lag_seconds=lag))
