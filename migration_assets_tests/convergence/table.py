"""The table of this suite: small, so that writers collide, with a column for each type that breaks careless copies.

Belongs here: its DDL, what its rows look like, which rows are whose, and a migration of it. Ids below `FIRST_RESERVED`
are the writers'; the reserved rows are touched by injected damage alone, so that what a validation must say is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

import psycopg
from pydantic import SecretStr

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings

CALENDAR = FiscalCalendar()
MIGRATED = (FiscalQuarter(2025, 2), FiscalQuarter(2025, 1))
NEVER = FiscalQuarter(2024, 4)
"""Its rows stay on the legacy: what leaves the stream and comes into it goes to and from here."""

WRITERS_IDS = 2_600
FIRST_RESERVED = 1_000_000
RESERVED_PER_WEEK = 32
PROBE_ID = 900_000
"""One row that only the probe changes, to see how long the legacy lets a lonely writer wait."""

DDL = """
CREATE TYPE public.booking_status AS ENUM ('requested', 'confirmed', 'it''s over', 'no show %');
CREATE TABLE public.bookings (
    gone        integer,
    id          bigint PRIMARY KEY,
    booked_at   timestamptz NOT NULL,
    status      public.booking_status NOT NULL DEFAULT 'requested',
    guests      integer,
    price       numeric,
    note        text,
    document    text,
    details     jsonb,
    tags        text[],
    valid_until timestamptz,
    stay        interval,
    score       double precision,
    note_size   integer GENERATED ALWAYS AS (coalesce(length(note), -1)) STORED
);
ALTER TABLE public.bookings DROP COLUMN gone;
ALTER TABLE public.bookings ALTER COLUMN document SET STORAGE EXTERNAL;
CREATE INDEX bookings_booked_at_idx ON public.bookings (booked_at);
"""

_WRITTEN = "id booked_at status guests price note document details tags valid_until stay score"
WRITTEN = tuple(_WRITTEN.split())
"""The columns that a writer gives a value; all go to the server as text, as untyped literals do."""

COLUMNS = (*WRITTEN, "note_size")

Row = dict[str, str | None]


@dataclass(frozen=True)
class Rows:
    """A seeded maker of values."""

    random: Random

    def booked_at(self, quarter: FiscalQuarter | None = None) -> str:
        """An instant in one of the three quarters, often exactly on a week's edge."""
        of = quarter or self.random.choices([*MIGRATED, NEVER], [4, 4, 2])[0]
        return self.instant(FiscalWeek(of, self.random.randint(1, 13)))

    def instant(self, week: FiscalWeek) -> str:
        """An instant of one week: its first, its last, or any."""
        bounds = CALENDAR.bounds(week)
        last = bounds.duration // timedelta(microseconds=1) - 1
        offset = self.random.choices([0, last, self.random.randint(0, last)], [15, 10, 75])[0]
        return (bounds.lower + timedelta(microseconds=offset)).isoformat()

    def row(self, id_: int, booked_at: str | None = None) -> Row:
        """A whole new row."""
        return {
            "id": str(id_),
            "booked_at": booked_at or self.booked_at(),
            **self.small(),
            "document": self.document() if self.random.random() < 0.25 else None,
        }

    def small(self) -> Row:
        """Everything but the key, the control column and the value that lies out of line."""
        choose = self.random.choice
        return {
            "status": choose(["requested", "confirmed", "it's over", "no show %"]),
            "guests": choose([None, "0", "-1", "2147483647", str(self.random.randint(1, 400))]),
            "price": choose([None, "1", "1.0", "1.00", "-0.50", "NaN", "Infinity", "123456789012345678901.123456789"]),
            "note": choose([None, "", " ", "NULL", "called back, d'accord ✓", "a\tb\\n\n", "x" * 300]),
            "details": choose([None, "null", "{}", '{"a": 1.0}', '{"a": 1.00}', '{"b": ["☀", null], "a": ""}']),
            "tags": choose([None, "{}", "{vip}", '{"late, \\"quoted\\"",NULL,""}', "[0:1]={a,b}"]),
            "valid_until": choose([None, "infinity", "-infinity", "2024-05-05 05:05:05.000001+00"]),
            "stay": choose([None, "1 day", "24:00:00", "-1 mon +1 day"]),
            "score": choose([None, "0", "-0", "NaN", "0.1", "-Infinity"]),
        }

    def document(self) -> str:
        """Always stored out of line: the column's storage is EXTERNAL, and this does not fit into a page's quarter."""
        return self.random.randbytes(self.random.randint(1_200, 2_400)).hex()


def reserved_ids(week: FiscalWeek) -> range:
    """The ids of a week's reserved rows."""
    first = FIRST_RESERVED + 10_000 * (week.quarter.ordinal % 100) + 100 * week.number
    return range(first, first + RESERVED_PER_WEEK)


def reserved_rows(rows: Rows, week: FiscalWeek) -> Iterator[Row]:
    """Rows in which every damage finds something to damage: no two alike, NULLs and values both."""
    lower = CALENDAR.bounds(week).lower
    for number, id_ in enumerate(reserved_ids(week)):
        yield {
            **rows.row(id_, (lower + timedelta(hours=1 + number)).isoformat()),
            "guests": str(1000 + number),
            "price": "1.0",
            "note": f"reserved {id_}" if number % 2 else None,
            "document": rows.document(),
            "details": '{"a": 1.0}',
            "tags": "{vip,late}",
            "valid_until": "2024-05-05 05:05:05.000001+00",
            "stay": "1 day",
            "score": "0",
            "status": "requested",
        }


def create_table(url: str, random: Random, *, written: int = 1_800) -> None:
    """Make the legacy's table and fill it: `written` rows of the writers' ids, and all reserved rows."""
    rows = Rows(random)
    weeks = [week for quarter in MIGRATED for week in CALENDAR.weeks_of(quarter)]
    probe_at = CALENDAR.bounds(FiscalWeek(MIGRATED[0], 7)).lower + timedelta(days=1)
    with psycopg.connect(url) as connection:
        connection.execute(DDL.encode())
        with connection.cursor().copy(f"COPY public.bookings ({', '.join(WRITTEN)}) FROM STDIN".encode()) as copy:
            for id_ in random.sample(range(1, WRITERS_IDS + 1), written):
                copy.write_row(values_of(rows.row(id_)))
            copy.write_row(values_of(rows.row(PROBE_ID, probe_at.isoformat())))
            for week in weeks:
                for row in reserved_rows(rows, week):
                    copy.write_row(values_of(row))
        connection.execute("ANALYZE public.bookings")


def values_of(row: Row) -> tuple[str | None, ...]:
    """In the order of `WRITTEN`."""
    return tuple(row[column] for column in WRITTEN)


def settings_of(legacy_url: str, base_url: str) -> MigrationSettings:
    """The settings of a migration of this table."""
    return MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(legacy_url),
        base_url=SecretStr(base_url),
        table="public.bookings",
        lock_patience_seconds=30,
        stream_patience_seconds=60,
        cut_patience_seconds=30,
    )


def migration_of(legacy_url: str, base_url: str) -> Migration:
    """That migration."""
    return open_migration(settings_of(legacy_url, base_url))


def week_of(text: str) -> FiscalWeek:
    """The week of an instant as text."""
    return CALENDAR.week_of(datetime.fromisoformat(text))
