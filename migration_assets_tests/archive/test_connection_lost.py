"""A session that is lost while a week is written to Parquet is worth another try, and leaves nothing behind."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from migration_assets.archive import archiving
from migration_assets.archive.archiving import archive_week, reread_archive
from migration_assets.domain.errors import ConnectionLostError
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import WEEKS, with_settings
from migration_assets_tests.archive.test_leaving_and_coming_back import on

WEEK = WEEKS[4]
# More than fits between the server and us, so that the server is still sending when it is struck.
FAT = (
    "UPDATE public.{} SET notes = (SELECT string_agg(md5(id::text || n::text), '') FROM generate_series(1, 6000) n)"
    " WHERE id IN (SELECT id FROM public.{} LIMIT 80) RETURNING 1"
)
STRIKE = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'migration_assets:archive'"
    " AND datname = current_database()"
)
OUTCOMES = "SELECT outcome FROM migration.attempts WHERE action = 'archive' AND week = 'W05' ORDER BY id"


class Struck:
    """The first `times` exports lose their session after the first batch."""

    def __init__(self, base_url: str, times: int) -> None:
        self.base_url, self.left, self.fell = base_url, times, 0

    @contextmanager
    def stream(self, *args: Any, **more: Any) -> Generator[pa.RecordBatchReader]:
        with arrow_stream(*args, **more, batch_bytes=100_000) as reader:
            yield pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader))

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        yield reader.read_next_batch()
        if self.left:
            self.left -= 1
            self.fell += len(on(self.base_url, STRIKE))
        yield from reader


@pytest.fixture(scope="module")
def fat(signed: Migration) -> Migration:
    leaf = "amenity_bookings_fy25_q2_w05"
    assert len(on(signed.databases.base_url, FAT.format(leaf, leaf))) == 80
    return signed


@pytest.mark.long
def test_a_session_lost_in_mid_export_is_tried_again(fat: Migration, monkeypatch: pytest.MonkeyPatch) -> None:
    struck = Struck(fat.databases.base_url, 1)
    monkeypatch.setattr(archiving, "arrow_stream", struck.stream)
    done = archive_week(fat, WEEK)
    assert struck.fell == 1
    assert on(fat.databases.base_url, OUTCOMES) == [("failed",), ("succeeded",)]
    assert reread_archive(fat, WEEK).record.native == done.record.native


@pytest.mark.long
def test_it_is_given_up_after_the_tries_and_the_archive_of_before_is_as_it_was(
    fat: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = archive_week(fat, WEEK).record
    struck = Struck(fat.databases.base_url, 9)
    monkeypatch.setattr(archiving, "arrow_stream", struck.stream)
    with pytest.raises(ConnectionLostError, match="reading from the base failed"):
        archive_week(with_settings(fat, retry_attempts=2), WEEK)
    assert struck.fell == 2
    assert reread_archive(fat, WEEK).record.manifest_sha256 == before.manifest_sha256
