"""Every kind of change that a writer makes to the legacy, each within a transaction that the writer has begun.

Belongs here: one function a kind, and their weights. Does not: beginning, committing, pacing, failing (`workload`).
All values go as untyped literals, so that the server reads them as it reads any application's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import psycopg
from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.postgres.sessions import Connected
from migration_assets_tests.convergence.table import (
    CALENDAR,
    MIGRATED,
    NEVER,
    WRITERS_IDS,
    WRITTEN,
    Row,
    Rows,
    values_of,
)

_NAMES = ", ".join(WRITTEN)
_MARKS = ", ".join(["%s"] * len(WRITTEN))
_INSERT = f"INSERT INTO public.bookings ({_NAMES}) VALUES ({_MARKS})"
_REST = ", ".join(f"{name} = excluded.{name}" for name in WRITTEN if name != "id")
_WITH_DOCUMENT = (
    "UPDATE public.bookings SET {} = %s WHERE id = (SELECT id FROM public.bookings"
    f" WHERE id BETWEEN %s AND {WRITERS_IDS} AND document IS NOT NULL ORDER BY id LIMIT 1)"
)
_SMALL = ("status", "guests", "price", "note", "details", "tags", "valid_until", "stay", "score")


@dataclass
class Hand:
    """What one writer draws from, and the ids it has seen go."""

    random: Random
    deleted: list[int] = field(default_factory=list[int])

    @property
    def rows(self) -> Rows:
        """Its maker of values."""
        return Rows(self.random)

    def id(self) -> int:
        """Any id of the writers'; a third of the time one of fifty, where all of them meet."""
        return self.random.randint(1, 50 if self.random.random() < 0.33 else WRITERS_IDS)

    def span(self, longest: int) -> tuple[int, int]:
        """A range of ids, both ends included."""
        first = self.random.randint(1, WRITERS_IDS - longest)
        return first, first + self.random.randint(1, longest)

    def small(self) -> Row:
        """Some of the small columns with new values."""
        row = self.rows.small()
        return {name: row[name] for name in self.random.sample(_SMALL, self.random.randint(1, 4))}


Change = Callable[[Connected, Hand], object]


def _run(connection: Connected, statement: str, *parameters: object) -> int:
    return connection.execute(statement.encode(), parameters or None).rowcount


def insert(connection: Connected, hand: Hand) -> None:
    """A plain insert; of an id that exists it fails, and its savepoint goes with it."""
    try:
        with connection.transaction():
            _run(connection, _INSERT, *values_of(hand.rows.row(hand.id())))
    except psycopg.errors.UniqueViolation:
        small_update(connection, hand)


def insert_or_nothing(connection: Connected, hand: Hand) -> None:
    _run(connection, f"{_INSERT} ON CONFLICT DO NOTHING", *values_of(hand.rows.row(hand.id())))


def upsert(connection: Connected, hand: Hand) -> None:
    """Changes every column where the id exists, its week among them."""
    _run(connection, f"{_INSERT} ON CONFLICT (id) DO UPDATE SET {_REST}", *values_of(hand.rows.row(hand.id())))


def small_update(connection: Connected, hand: Hand) -> None:
    """The document, which lies out of line, stays as it is."""
    values = hand.small()
    assignments = ", ".join(f"{name} = %s" for name in values)
    _run(connection, f"UPDATE public.bookings SET {assignments} WHERE id = %s", *values.values(), hand.id())


def toast_unchanged(connection: Connected, hand: Hand) -> None:
    """Of a row that has a document for certain."""
    _run(connection, _WITH_DOCUMENT.format("guests"), hand.random.randint(0, 400), hand.id())


def toast_moved(connection: Connected, hand: Hand) -> None:
    """A row with a document changes its week, the document unchanged: out of a filter's range it arrives as INSERT."""
    _run(connection, _WITH_DOCUMENT.format("booked_at"), hand.rows.booked_at(), hand.id())


def document_update(connection: Connected, hand: Hand) -> None:
    document = hand.random.choice([None, "", hand.rows.document()])
    _run(connection, "UPDATE public.bookings SET document = %s WHERE id = %s", document, hand.id())


def nothing_changed(connection: Connected, hand: Hand) -> None:
    _run(connection, "UPDATE public.bookings SET note = note WHERE id = %s", hand.id())


def delete(connection: Connected, hand: Hand) -> None:
    id_ = hand.id()
    if _run(connection, "DELETE FROM public.bookings WHERE id = %s", id_):
        hand.deleted.append(id_)


def reinsert(connection: Connected, hand: Hand) -> None:
    """An id that was deleted earlier comes back, most often in another week."""
    id_ = hand.deleted.pop(hand.random.randrange(len(hand.deleted))) if hand.deleted else hand.id()
    _run(connection, f"{_INSERT} ON CONFLICT DO NOTHING", *values_of(hand.rows.row(id_)))


def delete_and_reinsert(connection: Connected, hand: Hand) -> None:
    """In one transaction, in the same week or another."""
    id_ = hand.id()
    deleted = connection.execute(
        "DELETE FROM public.bookings WHERE id = %s RETURNING booked_at::text", [id_]
    ).fetchone()
    if deleted:
        at = str(deleted[0]) if hand.random.random() < 0.5 else None
        _run(connection, _INSERT, *values_of(hand.rows.row(id_, at)))


def move_week(connection: Connected, hand: Hand) -> None:
    """To another week of the same quarter, after SELECT FOR UPDATE."""
    found = connection.execute(
        "SELECT id, booked_at FROM public.bookings WHERE id = %s FOR UPDATE", [hand.id()]
    ).fetchone()
    if found:
        at = hand.rows.instant(FiscalWeek(CALENDAR.quarter_of(found[1]), hand.random.randint(1, 13)))
        _run(connection, "UPDATE public.bookings SET booked_at = %s WHERE id = %s", at, found[0])


def move_quarter(connection: Connected, hand: Hand) -> None:
    """Into, out of, or past the stream."""
    quarter = hand.random.choice([*MIGRATED, NEVER])
    _run(connection, "UPDATE public.bookings SET booked_at = %s WHERE id = %s", hand.rows.booked_at(quarter), hand.id())


def there_and_back(connection: Connected, hand: Hand) -> None:
    """Out of the stream and in again within one transaction, changed on the way."""
    id_ = hand.id()
    for quarter in (NEVER, hand.random.choice(MIGRATED)):
        statement = "UPDATE public.bookings SET booked_at = %s, guests = %s WHERE id = %s"
        _run(connection, statement, hand.rows.booked_at(quarter), hand.random.randint(0, 400), id_)


def move_by_statement(connection: Connected, hand: Hand) -> None:
    """DELETE and INSERT of the same ids in one statement, a week further."""
    values = ", ".join("booked_at + interval '7 days'" if name == "booked_at" else name for name in WRITTEN)
    _run(
        connection,
        "WITH gone AS (DELETE FROM public.bookings WHERE id BETWEEN %s AND %s RETURNING *)"
        f" INSERT INTO public.bookings ({_NAMES}) SELECT {values} FROM gone",
        *hand.span(5),
    )


def new_key(connection: Connected, hand: Hand) -> None:
    """The primary key itself changes, at times together with the week."""
    try:
        with connection.transaction():
            _run(
                connection,
                "UPDATE public.bookings SET id = %s, booked_at = coalesce(%s::text::timestamptz, booked_at)"
                " WHERE id = %s",
                hand.id(),
                hand.rows.booked_at() if hand.random.random() < 0.4 else None,
                hand.id(),
            )
    except psycopg.errors.UniqueViolation:
        delete(connection, hand)


def swapped_keys(connection: Connected, hand: Hand) -> None:
    """Two rows exchange their keys, by a third one that nobody else uses."""
    one, other = hand.id(), hand.id()
    aside = -hand.random.randint(1, 2**40)
    for old, new in ((one, aside), (other, one), (aside, other)):
        _run(connection, "UPDATE public.bookings SET id = %s WHERE id = %s", new, old)


def range_update(connection: Connected, hand: Hand) -> None:
    _run(
        connection,
        "UPDATE public.bookings SET guests = coalesce(guests, 0) %% 1000 + 1 WHERE id BETWEEN %s AND %s",
        *hand.span(30),
    )


def big(connection: Connected, hand: Hand) -> None:
    """Some hundred rows at once, moved about."""
    first, last = hand.span(600)
    assignments = hand.random.choice(
        [
            "SET booked_at = booked_at + interval '7 days', note = ''",
            "SET booked_at = booked_at - interval '30 days'",
            "SET price = 1.00, score = '-0'",
        ]
    )
    _run(connection, f"UPDATE public.bookings {assignments} WHERE id BETWEEN %s AND %s", first, last)
    # Nothing wanders off for ever: what has left the three quarters comes back into them.
    _run(
        connection,
        "UPDATE public.bookings SET booked_at = %s WHERE id BETWEEN %s AND %s"
        " AND NOT booked_at <@ tstzrange('2023-10-01+00', '2024-07-01+00')",
        hand.rows.booked_at(),
        first,
        last,
    )


def copied_in(connection: Connected, hand: Hand) -> None:
    """COPY into the legacy, of ids that were freed just before."""
    first, last = hand.span(20)
    _run(connection, "DELETE FROM public.bookings WHERE id BETWEEN %s AND %s", first, last)
    with connection.cursor().copy(f"COPY public.bookings ({_NAMES}) FROM STDIN".encode()) as copy:
        for id_ in range(first, last + 1):
            if hand.random.random() < 0.8:
                copy.write_row(values_of(hand.rows.row(id_)))


def merged(connection: Connected, hand: Hand) -> None:
    first, last = hand.span(6)
    _run(
        connection,
        "MERGE INTO public.bookings b USING generate_series(%s::bigint, %s::bigint) n ON b.id = n"
        " WHEN MATCHED AND n %% 3 = 0 THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET note = NULL, tags = '{}'"
        " WHEN NOT MATCHED THEN INSERT (id, booked_at) VALUES (n, %s)",
        first,
        last,
        hand.rows.booked_at(),
    )


def subtransactions(connection: Connected, hand: Hand) -> None:
    """A block with an exception handler for each row, more of them than a backend keeps in shared memory."""
    first, _ = hand.span(100)
    connection.execute(
        sql.SQL(
            "DO $$ BEGIN FOR n IN {first} .. {first} + 70 LOOP BEGIN"
            " UPDATE public.bookings SET guests = n WHERE id = n;"
            " IF n % 4 = 0 THEN DELETE FROM public.bookings WHERE id = n + 1; END IF;"
            " PERFORM 1 / (n % 3);"
            " EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$"
        ).format(first=first)
    )


def lost_savepoint(connection: Connected, hand: Hand) -> None:
    """Changes that never happened, in the midst of some that did."""
    with connection.transaction():
        upsert(connection, hand)
        delete(connection, hand)
        raise psycopg.Rollback
    small_update(connection, hand)  # reached: the block above swallows its own Rollback


WEIGHTS: dict[Change, int] = {
    insert: 6,
    insert_or_nothing: 6,
    upsert: 10,
    small_update: 20,
    toast_unchanged: 8,
    toast_moved: 8,
    document_update: 6,
    nothing_changed: 2,
    delete: 10,
    reinsert: 8,
    delete_and_reinsert: 6,
    move_week: 10,
    move_quarter: 12,
    there_and_back: 4,
    move_by_statement: 3,
    new_key: 6,
    swapped_keys: 3,
    range_update: 3,
    big: 1,
    copied_in: 2,
    merged: 3,
    subtransactions: 1,
    lost_savepoint: 3,
}
