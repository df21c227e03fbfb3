"""An importer never waits behind an ALTER TABLE that waits for its exporter: applications stand behind that."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
import pytest

from migration_assets.domain.errors import ArchiveError, TableBusyError
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.retries import is_transient
from migration_assets.postgres.sessions import Timeouts
from migration_assets.postgres.snapshots import export_snapshot, in_snapshot, reading
from migration_assets_tests.ground import Ground, wait_for

_NEVER = Timeouts(lock=600_000, statement=600_000)
_QUEUED = (
    "SELECT count(*) FROM pg_locks WHERE relation = 'bookings'::regclass AND NOT granted"
    " AND mode = 'AccessExclusiveLock'"
)


def test_an_importer_gives_way_at_once_says_who_alters_and_the_alter_gets_through(ground: Ground) -> None:
    ground.fill(14)
    databases, table = ground.databases, ground.spec.table

    def alter() -> None:
        with psycopg.connect(databases.legacy_url, application_name="somebody", autocommit=True) as stranger:
            stranger.execute("ALTER TABLE bookings ADD COLUMN more integer")

    with (
        ThreadPoolExecutor(max_workers=1) as pool,
        databases.session("legacy", "export", _NEVER) as exporter,
        databases.session("legacy", "import", _NEVER) as importer,
    ):
        with reading(exporter, [table]):
            snapshot = export_snapshot(exporter)
            importing = partial(in_snapshot, importer, snapshot, [table])
            archiving = partial(arrow_stream, databases.legacy_url, snapshot, "SELECT 1", [table])
            with importing():
                # The rest of the transaction is as patient as its session.
                assert importer.execute("SHOW lock_timeout").fetchone() == ("10min",)
            altered = pool.submit(alter)
            wait_for(lambda: ground.one("legacy", _QUEUED) == 1, "the ALTER waits for the exporter")
            with pytest.raises(TableBusyError, match=r"backend \d+ \(.*, somebody\)") as busy, importing():
                pytest.fail("it came in")
            assert is_transient(busy.value)
            assert busy.value.next_step
            with pytest.raises(TableBusyError, match="another session alters") as of_archive, archiving():
                pytest.fail("it came in")
            assert is_transient(of_archive.value)
            assert not altered.done()
        altered.result()
        with pytest.raises(psycopg.OperationalError, match="was lost"), importing():
            pytest.fail("its exporter is gone")
        with pytest.raises(ArchiveError), archiving():
            pytest.fail("its exporter is gone")
    assert ground.one("legacy", "SELECT count(*) FROM bookings WHERE more IS NULL") == 14
