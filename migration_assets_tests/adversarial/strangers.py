"""Enemies that write by strange ways, damage the base, or end our sessions.

What a side acknowledges to them goes into the journal as any application's: it must be there in the end.
"""

import time
from datetime import timedelta

from psycopg import errors, sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets_tests.adversarial.applications import transaction
from migration_assets_tests.adversarial.mob import Deed, Mob
from migration_assets_tests.adversarial.table import (
    CALENDAR,
    FIRST_RESERVED,
    QUARTER,
    RESERVED_PER_WEEK,
    WEEKS,
    Session,
    Side,
    row_text,
    run,
    session,
)

FIRST_STRANGE = 2_000_000
"""Ids of rows that strangers insert; each is written once or twice and then left alone."""

_INSERT = sql.SQL(
    "INSERT INTO {table} AS b (id, booked_at, guests, note) VALUES (%s, %s, %s, %s) RETURNING b.id, {text}"
)
# Before, between, after and beyond the quarters that are open.
_NOWHERE = ("2024-07-02 12:00+00", "2024-03-31 23:59:59.999999+00", "2031-01-01 00:00+00", "infinity", "-infinity")
_DAMAGES = (
    "UPDATE public.{leaf} SET guests = coalesce(guests, 0) + 1 WHERE id = {key}",
    "DELETE FROM public.{leaf} WHERE id = {key}",
    "INSERT INTO public.{leaf} (id, booked_at, note) VALUES ({extra}, '{at}', 'extra')",
)
_REFUSED = (errors.ReadOnlySqlTransaction,)


def leaf_of(week: FiscalWeek) -> str:
    return f"bookings_{week.quarter.key.lower().replace('-', '_')}_w{week.number:02d}"


def instant(mob: Mob, week: FiscalWeek) -> str:
    bounds = CALENDAR.bounds(week)
    last = bounds.duration // timedelta(microseconds=1) - 1
    offset = mob.random.choice([0, last, mob.random.randint(0, last)])
    return (bounds.lower + timedelta(microseconds=offset)).isoformat()


def insert(
    mob: Mob, connection: Session, side: Side, at: str, note: str, table: tuple[str, str] = ("public", "bookings")
) -> str:
    """One row, acknowledged; or refused because writes are held."""
    key = FIRST_STRANGE + mob.number()
    statement = _INSERT.format(table=sql.Identifier(*table), text=row_text())
    try:
        with transaction(mob.world, connection, side) as under_way:
            rows = connection.execute(statement, [key, at, key % 9, note]).fetchall()
            under_way.changed([(int(found), text) for found, text in rows])
    except _REFUSED:
        mob.world.journal.refused += 1
        return f"{key} on the {side}: held"
    return f"{key} on the {side} at {at}"


def replica_writer(mob: Mob) -> str:
    """Other subscriptions, pg_restore --disable-triggers: ordinary triggers do not fire for them."""
    side = mob.world.side
    with session(mob.world.url(side), session_replication_role="replica") as connection:
        return insert(mob, connection, side, instant(mob, mob.random.choice(WEEKS)), "replica")


def liar(mob: Mob) -> str:
    """Calls itself one of us."""
    side = mob.world.side
    name = mob.random.choice(["migration_assets:repair", "migration_assets:traffic", f"migration_assets:{QUARTER.key}"])
    with session(mob.world.url(side), name) as connection:
        return insert(mob, connection, side, instant(mob, mob.random.choice(WEEKS)), "liar")


def leaf_writer(mob: Mob) -> str | None:
    """Names a leaf of the base in charge."""
    if mob.world.side != "base":
        return None
    week = mob.random.choice(WEEKS)
    with session(mob.world.base_url) as connection:
        return insert(mob, connection, "base", instant(mob, week), "leaf", ("public", leaf_of(week)))


def prepared(mob: Mob) -> str | None:
    """PREPARE TRANSACTION, and the end of it later: no session holds it any more, its locks stand."""
    if mob.closing:
        return None
    side, key = mob.world.side, FIRST_STRANGE + mob.number()
    name = f"enemy_{mob.world.url(side).rsplit('/', 1)[-1].split('?')[0]}_{key}"
    statement = _INSERT.format(table=sql.Identifier("public", "bookings"), text=row_text())
    with session(mob.world.url(side)) as connection:
        connection.execute("BEGIN")
        try:
            values = [key, instant(mob, mob.random.choice(WEEKS)), 1, "prepared"]
            rows = connection.execute(statement, values).fetchall()
            connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
        except _REFUSED:
            connection.execute("ROLLBACK")
            return f"on the {side}: held"
    commits = mob.random.random() < 0.7

    def end() -> None:
        run(mob.world.url(side), f"{'COMMIT' if commits else 'ROLLBACK'} PREPARED '{name}'")
        if commits:
            mob.world.journal.commit(side, {int(found): text for found, text in rows})
        mob.world.note(f"  enemy: prepared {key} {'committed' if commits else 'rolled back'}")

    mob.later(1.5, end)
    return f"{key} on the {side}"


def giant(mob: Mob) -> str | None:
    """Hundreds of rows and subtransactions in one transaction that stays open for a while."""
    side = mob.world.side
    week = mob.random.choice(WEEKS)
    first = FIRST_STRANGE + 1000 * (mob.number() + 1)
    with session(mob.world.url(side)) as connection:
        try:
            with transaction(mob.world, connection, side) as under_way:
                for key in range(first, first + 40):
                    connection.execute("SAVEPOINT s")
                    rows = connection.execute(
                        _INSERT.format(table=sql.Identifier("public", "bookings"), text=row_text()),
                        [key, instant(mob, week), 2, "giant"],
                    ).fetchall()
                    if key % 3 == 0:
                        connection.execute("ROLLBACK TO s")
                    else:
                        under_way.changed([(int(found), text) for found, text in rows])
                time.sleep(mob.random.uniform(0, 0.2))
        except _REFUSED:
            return f"on the {side}: held"
    return f"{first} on the {side}"


def out_of_range(mob: Mob) -> str:
    """Into weeks that the base has no place for: they must be named, and must never be lost."""
    side = mob.world.side
    at = mob.random.choice(_NOWHERE)
    with session(mob.world.url(side)) as connection:
        try:
            return insert(mob, connection, side, at, "out of range")
        except errors.CheckViolation:
            return f"{at}: no partition"


def late_in(mob: Mob, week: FiscalWeek) -> str:
    """Changes a row of a week that has left, on the legacy, or books one more in it."""
    side = mob.world.side
    if mob.random.random() < 0.5:
        with session(mob.world.url(side)) as connection:
            return insert(mob, connection, side, instant(mob, week), "late")
    key = FIRST_RESERVED + 10 * (week.number - 1) + 2
    with session(mob.world.url(side)) as connection:
        try:
            with transaction(mob.world, connection, side) as under_way:
                rows = connection.execute(
                    sql.SQL("UPDATE public.bookings b SET note = 'late' WHERE id = %s RETURNING id, {}").format(
                        row_text()
                    ),
                    [key],
                ).fetchall()
                under_way.changed([(int(found), text) for found, text in rows])
        except _REFUSED:
            mob.world.journal.refused += 1
            return f"{key}: held"
    return f"{key} changed"


def vandal(mob: Mob) -> str | None:
    """Changes a row of the base, which nobody but us may write, by way of its leaf."""
    if mob.world.side != "legacy" or not mob.following:
        return None
    week = mob.random.choice(WEEKS)
    key = FIRST_RESERVED + 10 * (week.number - 1) + mob.random.randint(1, RESERVED_PER_WEEK)
    change = mob.random.choice(_DAMAGES).format(
        leaf=leaf_of(week), key=key, extra=FIRST_RESERVED + 100_000 + mob.number(), at=instant(mob, week)
    )
    with session(mob.world.base_url) as connection:
        if not connection.execute(change.encode()).rowcount:
            return None
    mob.damaged[week] = time.monotonic()
    return change[:60]


_OURS = (
    "SELECT pg_terminate_backend(pid), application_name FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'migration_assets:%' ORDER BY random() LIMIT 1"
)
_STREAM = (
    "SELECT pg_terminate_backend(pid), backend_type FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type IN ('walsender', 'logical replication apply worker', 'logical replication worker') LIMIT 1"
)


def kill_one_of_ours(mob: Mob) -> str | None:
    side: Side = mob.random.choice(["legacy", "base"])
    with session(mob.world.url(side), "enemy") as connection:
        rows = connection.execute(_OURS.encode()).fetchall()
    return f"{rows[0][1]} on the {side}" if rows else None


def kill_stream(mob: Mob) -> str | None:
    side: Side = mob.random.choice(["legacy", "base"])
    with session(mob.world.url(side), "enemy") as connection:
        rows = connection.execute(_STREAM.encode()).fetchall()
    return f"{rows[0][1]} on the {side}" if rows else None


WRITERS: tuple[Deed, ...] = (replica_writer, liar, leaf_writer, prepared, giant)
VANDALS: tuple[Deed, ...] = (vandal, vandal)
KILLERS: tuple[Deed, ...] = (kill_one_of_ours, kill_stream)
