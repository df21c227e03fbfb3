"""Weeks of made-up bookings for the tests of archives: their rows, batches, manifests, and fingerprints in Python."""

# Arrow's type stubs leave much unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from migration_assets.archive.columns import ColumnStatistics, Storage, StoredColumn
from migration_assets.archive.manifest import Manifest, slice_folder
from migration_assets.archive.ownership import ArchiveWriter, LedgerIdentity
from migration_assets.archive.parts import parquet_schema
from migration_assets.archive.store import ArchiveStore, Output
from migration_assets.archive.writer import WriteLimits, write_slice
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fingerprint import METHOD, PORTABLE_METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek

RELATION = "public.amenity_bookings"
WEEK = FiscalWeek.parse("FY24-Q3|W05")
HOME = slice_folder(RELATION, WEEK)
COLUMNS = (
    StoredColumn("id", "bigint", Storage.INTEGER, width=8, not_null=True),
    StoredColumn("booked_at", "timestamp with time zone", Storage.TIMESTAMPTZ, not_null=True),
    StoredColumn("guest", "text", Storage.TEXT, is_text_type=True),
    StoredColumn("price", "numeric(10,2)", Storage.DECIMAL, precision=10, scale=2),
    StoredColumn("status", "public.booking_status", Storage.TEXT, labels=("open", "paid")),
)
# So small that a few hundred rows make several files of several row groups.
SMALL = WriteLimits(file_bytes=7_000, row_group_rows=70, row_group_bytes=1_000_000)
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

WRITER = ArchiveWriter(LedgerIdentity("3f0c6a52-6f6c-4c0e-9d8e-2f6a1f6f7a10", "7300000000000000001", 16384, 1))

Row = tuple[Any, ...]


def bookings(count: int, week: FiscalWeek = WEEK, *, seed: int = 1) -> list[Row]:
    """Rows of the week in the order of an archive, some values NULL, empty, or beyond ASCII."""
    dice = random.Random(f"{seed} {week}")
    bounds = FiscalCalendar().bounds(week)
    micros = int(bounds.duration / timedelta(microseconds=1))
    times = sorted(bounds.lower + timedelta(microseconds=dice.randrange(micros)) for _ in range(count))
    return [
        (
            number + seed * 1_000_000,
            moment,
            dice.choice([None, "", "Zoë 🏊", dice.randbytes(40).hex()]),
            dice.choice([None, Decimal(dice.randrange(-99999, 99999)).scaleb(-2)]),
            dice.choice(["open", "paid"]),
        )
        for number, moment in enumerate(times)
    ]


def batches(rows: Sequence[Row], size: int = 70) -> Iterator[pa.RecordBatch]:
    """As they come from the base."""
    schema = parquet_schema(COLUMNS)
    for start in range(0, len(rows), size):
        columns = zip(*rows[start : start + size], strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def portable(rows: Sequence[Row]) -> Fingerprint:
    """The portable fingerprint after its definition in words, with neither PostgreSQL nor DuckDB."""
    sum_a = sum_b = 0
    for number, moment, guest, price, status in rows:
        micros = (moment - POSTGRES_EPOCH) // timedelta(microseconds=1)
        texts = [f"{len(text.encode())}:{text}" if text is not None else ":" for text in (guest, status)]
        amount = "" if price is None else str(price)
        image = f"{number},{micros & (2**64 - 1):016x},{texts[0]}{amount},{texts[1]}"
        digest = hashlib.md5(image.encode(), usedforsecurity=False).hexdigest()
        sum_a += int(digest[:15], 16)
        sum_b += int(digest[17:], 16)
    return Fingerprint(len(rows), sum_a, sum_b)


def manifest(rows: Sequence[Row], week: FiscalWeek = WEEK, *, generation: str = "g1", **changes: Any) -> Manifest:
    """Of these rows, without files."""
    bounds = FiscalCalendar().bounds(week)
    values: dict[str, Any] = {
        "relation": RELATION,
        "week": week,
        "control_column": "booked_at",
        "key_columns": ("id", "booked_at"),
        "lower_bound": str(bounds.lower).replace("+00:00", "+00"),
        "upper_bound": str(bounds.upper).replace("+00:00", "+00"),
        "generation": generation,
        "rows": len(rows),
        "native": Fingerprint(len(rows), len(rows) * 3, -len(rows)),
        "native_method": METHOD,
        "portable": portable(rows),
        "portable_method": PORTABLE_METHOD,
        "columns": COLUMNS,
        "statistics": {
            column.name: ColumnStatistics(sum(row[place] is None for row in rows))
            for place, column in enumerate(COLUMNS)
        },
        "lsn": "0/1A2B3C",
        "snapshot_at": bounds.upper + timedelta(days=400),
        "archived_at": bounds.upper + timedelta(days=400, seconds=1),
        "versions": {"pyarrow": pa.__version__, "migration-assets": "0.1.0"},
        "ledger": str(WRITER.identity),
    }
    return Manifest(**{**values, **changes})


def archive(
    store: ArchiveStore, rows: Sequence[Row], week: FiscalWeek = WEEK, *, generation: str = "g1", **changes: Any
) -> Manifest:
    """Write them, in several small files."""
    described = manifest(rows, week, generation=generation, **changes)
    return write_slice(store, described, batches(rows), SMALL, writer=WRITER)


class Killed(BaseException):
    """What stands for SIGKILL inside one process."""


class DyingStore:
    """A store whose process dies at its n-th change of what is stored: nothing that comes later has any effect.

    What a write was given before it died is half there.
    """

    def __init__(self, store: ArchiveStore, dies_at: int) -> None:
        self._store = store
        self._left = dies_at
        self.changes = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return self._dying(method) if name in {"publish", "sync", "move", "delete", "delete_folder"} else method

    def open_output(self, path: str) -> Output:
        self._live()
        return _DyingOutput(self._store.open_output(path), self._live)

    def _dying(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._live()
            return method(*arguments)

        return call

    def _live(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Killed
        self.changes += 1


class _DyingOutput:
    """Every eighth write counts: a file has dozens, and all before its end are alike."""

    def __init__(self, output: Output, live: Callable[[], None]) -> None:
        self._output = output
        self._live = live
        self._writes = 0

    def write(self, data: bytes) -> int:
        self._writes += 1
        if self._writes % 8 == 1:
            self._or_close(data[: len(data) // 2])
        return self._output.write(data)

    def close(self) -> None:
        self._or_close(b"")
        self._output.close()

    def _or_close(self, half: bytes) -> None:
        try:
            self._live()
        except Killed:
            self._output.write(half)
            self._output.close()
            raise


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> ArchiveError:
    """The error of a call that must fail."""
    try:
        call(*arguments, **options)
    except ArchiveError as error:
        return error
    raise AssertionError("nothing was found wrong")
