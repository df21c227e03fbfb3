"""The changes that live traffic makes, one committed or rolled-back transaction at a time.

Rows are found by index: the next id from a random number on. Bookings move between fiscal weeks of the demo's calendar.
"""

from __future__ import annotations

import base64
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable


BOUNDS: Final = "SELECT min(id), max(id) FROM public.amenity_bookings WHERE booked_at >= %(since)s"
SMALL_UPDATE: Final = """
    UPDATE public.amenity_bookings SET status = %(status)s, guests = %(guests)s, price = %(price)s, updated_at = now()
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND booked_at >= %(since)s ORDER BY id LIMIT 1)"""
TOAST_UNCHANGED: Final = """
    UPDATE public.amenity_bookings SET status = %(status)s, guests = %(guests)s, price = %(price)s, updated_at = now()
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND id < %(id)s + 2000 AND booked_at >= %(since)s
                AND octet_length(notes) > 4000 ORDER BY id LIMIT 1)"""
NOTES_UPDATE: Final = """
    UPDATE public.amenity_bookings SET notes = %(notes)s, updated_at = now()
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND booked_at >= %(since)s
                AND notes IS DISTINCT FROM %(notes)s::text ORDER BY id LIMIT 1)"""
DELETE: Final = """
    DELETE FROM public.amenity_bookings
    WHERE id = (SELECT id FROM public.amenity_bookings
                WHERE id >= %(id)s AND booked_at >= %(since)s ORDER BY id LIMIT 1) RETURNING id"""
LOCK_ONE: Final = """
    SELECT id, booked_at FROM public.amenity_bookings WHERE id >= %(id)s AND booked_at >= %(since)s
    ORDER BY id LIMIT 1 FOR NO KEY UPDATE"""
MOVE: Final = "UPDATE public.amenity_bookings SET booked_at = %(booked_at)s, updated_at = now() WHERE id = %(id)s"
INSERT: Final = """
    INSERT INTO public.amenity_bookings (id, booked_at, amenity, resident_id, property_id, unit, status, starts_at,
        ends_at, guests, price, discount, contact_email, notes, metadata, tags, access_code, is_recurring, channel,
        created_by)
    VALUES (coalesce(%(id)s::bigint, nextval('public.amenity_bookings_id_seq')), %(booked_at)s, %(amenity)s,
        %(resident_id)s, %(property_id)s, %(unit)s, %(status)s, %(starts_at)s, %(ends_at)s, %(guests)s, %(price)s,
        %(discount)s::text::numeric, %(contact_email)s, %(notes)s, %(metadata)s, %(tags)s, %(access_code)s,
        %(is_recurring)s, %(channel)s, 'live-traffic')
    ON CONFLICT DO NOTHING"""


_LAST_WEEK: Final = 12


@dataclass(frozen=True)
class Week:
    """The part of a fiscal week that is in the traffic's range: [lower, upper), in UTC."""

    quarter: date
    number: int
    lower: datetime
    upper: datetime


def fiscal_week(moment: datetime) -> tuple[date, int]:
    """The first day of the quarter and the week's number, 0 to 12, of a UTC time, in the demo's calendar."""
    quarter = date(moment.year, moment.month - (moment.month - 1) % 3, 1)
    return quarter, min((moment.date() - quarter).days // 7, _LAST_WEEK)


def weeks_between(first: datetime, as_of: datetime) -> list[Week]:
    """The fiscal weeks of [first, as_of), cut to it."""
    found: list[Week] = []
    lower = first
    while lower < as_of:
        quarter, number = fiscal_week(lower)
        upper = lower.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        while upper < as_of and fiscal_week(upper) == (quarter, number):
            upper += timedelta(days=1)
        found.append(Week(quarter, number, lower, min(upper, as_of)))
        lower = upper
    return found


_BOUNDS_EVERY: Final = 500  # transactions after which the lowest and highest id are read again
_POOL_SIZE: Final = 1000  # deleted ids remembered for a return
_MICROSECOND: Final = timedelta(microseconds=1)
_WEIGHTS: Final = (38, 18, 9, 8, 9, 6, 7, 5)  # of the kinds, in the order of `Changes._kinds`


@dataclass
class Work:
    """What one transaction has done so far: counts by kind, and the deleted ids that may return."""

    counts: Counter[str] = field(default_factory=Counter[str])
    deleted_ids: list[int] = field(default_factory=list[int])

    def branch(self) -> Work:
        """A copy that can be thrown away with its savepoint."""
        return Work(Counter(self.counts), list(self.deleted_ids))


class Changes:
    """A seeded source of transactions over `public.amenity_bookings`.

    Args:
        seed: Equal seeds draw equal decisions, as long as the server gives equal answers.
        first: Earliest booked_at, inclusive, aware; older rows are left alone.
        as_of: Latest booked_at, exclusive, aware; inserts crowd in the six hours before it.
    """

    def __init__(self, seed: int, first: datetime, as_of: datetime) -> None:
        self.at_commit = False
        """True while only the COMMIT is missing: an error then leaves the outcome unknown."""
        self._random = Random(seed)  # noqa: S311 - not for secrets
        self._first, self._as_of = first.astimezone(UTC), as_of.astimezone(UTC)
        self._weeks = weeks_between(self._first, self._as_of)
        self._low = self._high = self._begun = 0
        self._deleted_ids: list[int] = []
        self._kinds: list[Callable[[psycopg.Connection[Any], Work], bool]] = [
            self._insert,
            self._update,
            self._update_toast_unchanged,
            self._update_notes,
            self._delete,
            self._reinsert,
            partial(self._move, kind="moved_week"),
            partial(self._move, kind="moved_quarter"),
        ]

    def transact(self, connection: psycopg.Connection[Any]) -> Counter[str]:
        """Run one transaction on an autocommit connection.

        Returns:
            What was committed, by kind, with `transactions` or `rollbacks` as one of the kinds.

        Raises:
            psycopg.Error: Nothing was committed, unless `at_commit` is set: then nobody knows.
        """
        self.at_commit = False
        if self._begun % _BOUNDS_EVERY == 0:
            bounds = connection.execute(BOUNDS, {"since": self._first}).fetchone()
            self._low, self._high = (bounds[0] or 0, bounds[1] or 0) if bounds else (0, 0)
        self._begun += 1
        work = Work(deleted_ids=list(self._deleted_ids[-_POOL_SIZE:]))
        try:
            committed = self._run(connection, work)
        except psycopg.Rollback:
            # psycopg swallows an error of ROLLBACK itself and lets Rollback through: only on a dead connection.
            raise psycopg.OperationalError("the connection was lost in a rollback") from None
        self.at_commit = False
        if not committed:
            return Counter(rollbacks=1)
        self._deleted_ids = work.deleted_ids
        work.counts["transactions"] += 1
        return work.counts

    def _run(self, connection: psycopg.Connection[Any], work: Work) -> bool:
        """Make one or more changes, perhaps with a rolled-back savepoint; False if all was rolled back on purpose."""
        with connection.transaction():
            for _ in range(self._random.randint(2, 6) if self._chance(0.3) else 1):
                self._change(connection, work)
            if self._chance(0.1):
                with connection.transaction():
                    self._change(connection, work.branch())
                    raise psycopg.Rollback
                work.counts["savepoint_rollbacks"] += 1  # reached: the block above swallows its own Rollback
                self._change(connection, work)
            if self._chance(0.1):
                raise psycopg.Rollback
            self.at_commit = True
        return self.at_commit

    def _change(self, connection: psycopg.Connection[Any], work: Work) -> None:
        [kind] = self._random.choices(self._kinds, _WEIGHTS)
        if not kind(connection, work):  # no such row (any more): the table may be small, or others write as well
            self._insert(connection, work)

    def _insert(self, connection: psycopg.Connection[Any], work: Work) -> bool:
        recent = self._chance(0.8)
        first = max(self._first, self._as_of - timedelta(hours=6)) if recent else self._first
        booked_at = self._between(first, self._as_of)
        connection.execute(INSERT, self._booking(booked_at, None))
        work.counts["inserts"] += 1
        return True

    def _reinsert(self, connection: psycopg.Connection[Any], work: Work) -> bool:
        if not work.deleted_ids:
            return False
        id_ = work.deleted_ids.pop(self._random.randrange(len(work.deleted_ids)))
        done = connection.execute(INSERT, self._booking(self._between(self._first, self._as_of), id_)).rowcount
        work.counts["reinserts"] += done
        return done > 0

    def _update(self, connection: psycopg.Connection[Any], work: Work) -> bool:
        done = connection.execute(SMALL_UPDATE, self._small_values()).rowcount
        work.counts["updates"] += done
        return done > 0

    def _update_toast_unchanged(self, connection: psycopg.Connection[Any], work: Work) -> bool:
        done = connection.execute(TOAST_UNCHANGED, self._small_values()).rowcount
        work.counts["updates_toast_unchanged"] += done
        return done > 0

    def _update_notes(self, connection: psycopg.Connection[Any], work: Work) -> bool:
        done = connection.execute(NOTES_UPDATE, {**self._somewhere(), "notes": self._notes()}).rowcount
        work.counts["updates_notes"] += done
        return done > 0

    def _delete(self, connection: psycopg.Connection[Any], work: Work) -> bool:
        row = connection.execute(DELETE, self._somewhere()).fetchone()
        if row is None:
            return False
        work.deleted_ids.append(row[0])
        work.counts["deletes"] += 1
        return True

    def _move(self, connection: psycopg.Connection[Any], work: Work, kind: str) -> bool:
        row = connection.execute(LOCK_ONE, self._somewhere()).fetchone()
        if row is None:
            return False
        quarter, number = fiscal_week(row[1].astimezone(UTC))
        targets = [
            week
            for week in self._weeks
            if (
                (week.quarter == quarter and week.number != number) if kind == "moved_week" else week.quarter != quarter
            )
        ]
        if not targets:
            return False
        week = self._random.choice(targets)
        connection.execute(MOVE, {"id": row[0], "booked_at": self._between(week.lower, week.upper)})
        work.counts[kind] += 1
        return True

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _some_id(self) -> int:
        """A number to start looking from; half of the time in the youngest tenth, where bookings still change."""
        low = self._high - (self._high - self._low) // 10 if self._chance(0.5) else self._low
        return self._random.randint(low, self._high)

    def _somewhere(self) -> dict[str, Any]:
        return {"id": self._some_id(), "since": self._first}

    def _between(self, lower: datetime, upper: datetime) -> datetime:
        return lower + self._random.randrange((upper - lower) // _MICROSECOND) * _MICROSECOND

    def _notes(self) -> str | None:
        """Nothing, a sentence, or (1 in 5) 5 to 14 kB that do not compress and so are stored out of line."""
        if self._chance(0.2):
            return base64.b64encode(self._random.randbytes(self._random.randint(4_000, 10_000))).decode()
        ticket = self._random.randint(1, 10**6)
        return None if self._chance(0.1) else f"Changed while migrating, ticket {ticket}: called back, d'accord ✓"

    def _small_values(self) -> dict[str, Any]:
        status = self._random.choice(
            ["requested", "waitlisted", "confirmed", "checked_in", "completed", "cancelled", "no_show"]
        )
        price = self._random.randint(0, 48_000) / 100
        return {**self._somewhere(), "status": status, "guests": self._random.randint(0, 40), "price": price}

    def _booking(self, booked_at: datetime, id_: int | None) -> dict[str, Any]:
        """The parameters of one new row; `id_` None lets the sequence decide."""
        resident = self._random.randint(1, 70_000)
        starts_at = booked_at + timedelta(hours=self._random.randint(1, 400))
        return self._small_values() | {
            "id": id_,
            "booked_at": booked_at,
            "amenity": self._random.choice(["Rooftop pool", "Sauna", "Guest suite", "Café d'été", "Tennis court"]),
            "resident_id": resident,
            "property_id": 1 + resident % 613,
            "unit": self._random.choice([None, "12B", "3A"]),
            "starts_at": starts_at,
            "ends_at": starts_at + timedelta(minutes=self._random.randint(15, 300)),
            "discount": self._random.choice([None, "5", "2.50", "0.0000", "17.1250"]),
            "contact_email": f"resident.{resident}@example.com",
            "notes": self._notes(),
            "metadata": Jsonb({"device": "web", "deposit": self._random.randint(0, 400), "extras": ["☀", None]}),
            "tags": self._random.choice([None, [], ["vip"], ['follow-up, "late"', None]]),
            "access_code": uuid.UUID(int=self._random.getrandbits(128)),
            "is_recurring": self._chance(0.1),
            "channel": self._random.choice(["app", "web", None]),
        }


def is_usable(connection: psycopg.Connection[Any]) -> bool:
    """Whether a transaction can begin.

    `closed` alone does not tell: a socket that breaks during COMMIT may leave psycopg's connection ACTIVE for ever.
    """
    return not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
