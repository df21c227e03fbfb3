"""A quarter that is signed off, with archives that are nothing but fingerprints; and where its rows are."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import RetirementError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import SliceState
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.ledger.archives import (
    ArchiveEvidence,
    ArchiveRecord,
    read_archive,
    record_archive,
)
from migration_assets.ledger.definitions import table_states
from migration_assets.ledger.retirements import Retirement, read_retirement
from migration_assets.ledger.slices import read_slice, slice_lock
from migration_assets.postgres.sessions import Connected, Databases
from migration_assets.retirement.checks import of_table
from migration_assets.retirement.leaving import Retired, retire_slice
from migration_assets.retirement.retiring import Returned, return_slice
from migration_assets.runtime import open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.plan import StreamPlan
from migration_assets.watch.drift import examine_base, examine_legacy, find_drifts
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, Ground, week

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = timedelta(days=7)
Reread = Callable[[ArchiveRecord], object]


def trust(_: ArchiveRecord) -> None:
    """Files that are always as they were proven."""


def _seen(base: Connected, plan: StreamPlan, leaf: str) -> Definitions:
    table = plan.spec.table
    states = table_states(base, [table, table.sibling(leaf)])
    return Definitions(None, states[table], states[table.sibling(leaf)])


def archive_week(plan: StreamPlan, number: int) -> None:
    """What parquet_archive leaves in the ledger, of a file that nobody wrote."""
    with plan.databases.session("base", "test") as base:
        record = read_slice(base, plan.relation, week(number))
        assert record is not None
        with slice_lock(base, record) as record, base.transaction():
            native = of_table(base, plan, plan.spec.table.sibling(record.leaf))
            evidence = ArchiveEvidence(
                "file:///archive",
                "1",
                "0" * 64,
                1,
                1000,
                native,
                native,
                "portable-v1",
                "0/1",
                NOW,
                0,
                _seen(base, plan, record.leaf),
            )
            record_archive(base, record, evidence, "test")


def sign(databases: Databases) -> None:
    settings = MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(databases.legacy_url),
        base_url=SecretStr(databases.base_url),
        table="public.bookings",
        as_of=None,
    )
    sign_off_quarter(open_migration(settings), QUARTER, "Ada", stream_problems=[])


@dataclass(frozen=True)
class Departure:
    """A live quarter, signed off; weeks are archived and retired as a test wants."""

    ground: Ground

    @classmethod
    def prepared(cls, ground: Ground, *archived: int) -> "Departure":
        ground.streamed()
        ground.reconcile()
        sign(ground.databases)
        made = cls(ground)
        for number in archived:
            made.archive(number)
        return made

    @classmethod
    @contextmanager
    def copied(cls, clones: Clones, *archived: int) -> "Generator[Departure]":
        """As `prepared` makes it of 910 rows."""
        name = "_".join(map(str, ("departure", *archived)))
        with clones.grown(name, lambda ground: cls.prepared(ground.fill(), *archived)) as databases:
            yield cls(Ground(databases))

    def impatient(self, seconds: float) -> "Departure":
        """The same, with less patience for what is in the way."""
        limits = replace(self.ground.stream_limits, cut_patience_seconds=seconds)
        return Departure(replace(self.ground, stream_limits=limits))

    def archive(self, number: int = 5) -> None:
        archive_week(self.ground.plan, number)

    def retire(
        self, number: int = 5, *, now: datetime = NOW, dry_run: bool = False, reread: Reread = trust, **more: Any
    ) -> Retired:
        given: dict[str, Any] = {"quarantine": GRACE, "outside_retention": True, **more}
        return retire_slice(self.ground.plan, week(number), reread=reread, now=now, dry_run=dry_run, **given)

    def refusal(self, number: int = 5, **more: Any) -> str:
        """Why it does not leave; makes sure that nothing but the note of it has changed."""
        before = self.ground.base_state()
        try:
            self.retire(number, **more)
        except RetirementError as error:
            assert self.ground.base_state() == before
            return str(error)
        raise AssertionError("it was not refused")

    def give_back(self, number: int = 5) -> Returned:
        return return_slice(self.ground.plan, week(number), now=NOW)

    def take_in(self, number: int = 5) -> None:
        """What the errors say: change_stream, then parquet_archive; and a sign-off where the first has voided it."""
        self.ground.stream()
        if self.state(number) is not SliceState.ARCHIVED:
            self.ground.reconcile()
            sign(self.ground.databases)
        self.archive(number)

    def drifts(self) -> list[str]:
        """What the watcher would say was altered by hand."""
        spec, stream = self.ground.spec, self.ground.stream_record()
        with (
            self.ground.databases.session("legacy", "test") as legacy,
            self.ground.databases.session("base", "test") as base,
        ):
            found = find_drifts(
                examine_legacy(legacy, spec, stream.publication), examine_base(base, spec, stream.subscription), stream,
                spec,
            )  # fmt: skip
        return [drift.what for drift in found]

    def state(self, number: int = 5) -> SliceState:
        return self.ground.record(number).state

    def retirement(self, number: int = 5) -> Retirement | None:
        with self.ground.databases.session("base", "test") as base:
            return read_retirement(base, self.ground.spec.relation, week(number))

    def archived(self, number: int = 5) -> ArchiveRecord:
        with self.ground.databases.session("base", "test") as base:
            found = read_archive(base, self.ground.spec.relation, week(number))
        assert found is not None
        return found

    def in_quarantine(self, number: int = 5) -> list[str]:
        """The rows there, as `Ground.contents` has them."""
        with self.ground.databases.session("base", "test") as base:
            table = f"migration_quarantine.{leaf(number)}"
            found = base.execute(f"SELECT row(id, booked_at, guests, price, note)::text FROM {table}".encode())
            return sorted(str(row[0]) for row in found)

    def book(self, row: int, number: int = 5) -> None:
        """A late booking on the legacy."""
        self.ground.ask(
            "legacy",
            "INSERT INTO bookings (id, booked_at, note)"
            " SELECT %s, '2024-04-01 12:00+00'::timestamptz + %s * interval '7 days', 'late' RETURNING 1",
            row,
            number - 1,
        )

    def covered(self, number: int = 5) -> bool:
        """Whether a booking of the week reaches the root through the stream; leaves one behind on the legacy."""
        row = int(self.ground.one("legacy", "SELECT max(id) + 1 FROM bookings"))
        self.book(row, number)
        self.ground.drain()
        return bool(self.ground.one("base", "SELECT count(*) FROM bookings WHERE id = %s", row))


def leaf(number: int, quarter: FiscalQuarter = QUARTER) -> str:
    return f"bookings_{quarter.key.lower().replace('-', '_')}_w{number:02}"
