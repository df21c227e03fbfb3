"""Sets the stage for a step, over and over, on one pair of databases: nobody writes while it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from psycopg import sql

from migration_assets.copying.weeks import copy_week, repair_week
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.ledger.stream import StreamStatus, read_stream
from migration_assets.postgres.catalogue import require_table
from migration_assets.preflight.run import examine
from migration_assets.quarters.opening import open_quarter
from migration_assets.runtime import Migration
from migration_assets.stream.holding import pause_stream, resume_stream, start_stream
from migration_assets.stream.legacy_side import (
    alter_filter,
    drop_publication,
    published_filter,
    row_filter,
)
from migration_assets.stream.slots import drop_slot
from migration_assets.stream.subscription import drop_subscription
from migration_assets_tests.convergence.comparison import UNDER_CDC, drain, states
from migration_assets_tests.convergence.table import CALENDAR, create_table, reserved_ids
from migration_assets_tests.crashes.steps import LEFT, QUARTER, WEEK, status_of


@dataclass(frozen=True)
class Stage:
    """One migration whose stream is taken away, narrowed, held and damaged as the next step needs it."""

    migration: Migration

    def set(self, wanted: str) -> None:
        """Have it as it must be before a step."""
        if wanted == "nothing":
            self._without_stream()
            return
        self._live()
        if wanted in {"left", "open join"}:
            self._without(LEFT)
        elif wanted == "damaged":
            self.damage()
        elif wanted == "repaired":
            self.damage()
            repair_week(self.migration, WEEK, dry_run=False)
        elif wanted == "held":
            pause_stream(self.migration, "a drill")

    def build(self, seed: int) -> None:
        """Once: the legacy's table, the quarter copied, nothing under CDC."""
        create_table(self.migration.databases.legacy_url, Random(seed), written=900)
        examine(self.migration)
        open_quarter(self.migration, QUARTER)
        for week in CALENDAR.weeks_of(QUARTER):
            copy_week(self.migration, week)

    def damage(self) -> None:
        """In the base, of rows that no writer touches: three missing, two changed."""
        first = reserved_ids(WEEK)
        with self.migration.databases.session("base", "test") as base:
            base.execute("DELETE FROM public.bookings WHERE id = ANY (%s)", [list(first[:3])])
            base.execute("UPDATE public.bookings SET note = 'damaged' WHERE id = ANY (%s)", [list(first[5:7])])

    def _live(self) -> None:
        found = states(self.migration)
        if status_of(self.migration) is StreamStatus.HELD:
            resume_stream(self.migration)
        if any(found[week] not in UNDER_CDC for week in CALENDAR.weeks_of(QUARTER)):
            start_stream(self.migration, QUARTER)

    def _without_stream(self) -> None:
        databases = self.migration.databases
        with databases.session("base", "test") as base, databases.session("legacy", "test") as legacy:
            stream = read_stream(base, self.migration.spec.relation)
            if stream is not None:
                drop_subscription(base, stream.subscription)
                drop_slot(legacy, stream.slot)
                drop_publication(legacy, stream.publication)
            legacy.execute("ALTER TABLE public.bookings REPLICA IDENTITY DEFAULT")
            legacy.execute("DROP SCHEMA IF EXISTS migration CASCADE")  # markers, and the guard with its function
            # The legacy counts its markers from 1 again.
            base.execute("DELETE FROM migration.markers")
            base.execute("DELETE FROM migration.cuts")
            base.execute("DELETE FROM migration.streams")
            base.execute("UPDATE migration.slices SET state = 'copied' WHERE state <> 'absent'")

    def _without(self, weeks: Sequence[FiscalWeek]) -> None:
        """Some weeks leave the stream. Without writers, and with all applied, that needs no cut."""
        drain(self.migration)
        databases, spec = self.migration.databases, self.migration.spec
        stay = [week for week, state in states(self.migration).items() if state in UNDER_CDC and week not in weeks]
        with databases.session("base", "test") as base, databases.session("legacy", "test") as legacy:
            stream = read_stream(base, spec.relation)
            assert stream is not None
            description = require_table(legacy, spec.table, "legacy")
            alter_filter(legacy, stream.publication, spec, row_filter(stay, description, spec, CALENDAR))
            base.execute(
                "UPDATE migration.streams SET row_filter = %s", [published_filter(legacy, stream.publication, spec)]
            )
            names = sql.SQL(", ").join(sql.Literal(week.name) for week in weeks)
            base.execute(
                sql.SQL("UPDATE migration.slices SET state = {} WHERE quarter = {} AND week IN ({})").format(
                    str(SliceState.COPIED), QUARTER.key, names
                )
            )
