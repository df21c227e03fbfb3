"""Somebody's hands on what the stream is made of. After each the product must not claim what is not so."""

from collections.abc import Callable

from psycopg import sql

from migration_assets_tests.adversarial.mob import Mob
from migration_assets_tests.adversarial.strangers import leaf_of
from migration_assets_tests.adversarial.table import FIRST_RESERVED, WEEKS, Session, ask, run, session
from migration_assets_tests.ground import wait_for

_NAMES = "SELECT slot, publication, subscription FROM migration.streams"


def _names(mob: Mob) -> tuple[str, str, str]:
    row = ask(mob.world.base_url, _NAMES)[0]
    return str(row[0]), str(row[1]), str(row[2])


def _worker_gone(mob: Mob) -> None:
    slot = _names(mob)[0]
    free = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND active"
    wait_for(lambda: not ask(mob.world.legacy_url, free, slot), "the slot is free")


def _without_worker(mob: Mob, connection: Session) -> sql.Identifier:
    subscription = sql.Identifier(_names(mob)[2])
    connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(subscription))
    _worker_gone(mob)
    return subscription


def slot_advanced(mob: Mob) -> None:
    """What the applications write meanwhile never arrives, and nothing fails."""
    with session(mob.world.base_url, "stranger") as base:
        subscription = _without_worker(mob, base)
        _change_reserved(mob)
        ask(mob.world.legacy_url, "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())::text", _names(mob)[0])
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(subscription))


def slot_made_anew(mob: Mob) -> None:
    with session(mob.world.base_url, "stranger") as base:
        subscription, slot = _without_worker(mob, base), _names(mob)[0]
        _change_reserved(mob)
        ask(mob.world.legacy_url, "SELECT pg_drop_replication_slot(%s)::text", slot)
        ask(mob.world.legacy_url, "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')::text", slot)
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(subscription))


def origin_advanced(mob: Mob) -> None:
    """The base says that it has applied what it never saw."""
    with session(mob.world.base_url, "stranger") as base:
        subscription = _without_worker(mob, base)
        _change_reserved(mob)
        lsn = ask(mob.world.legacy_url, "SELECT pg_current_wal_lsn()::text")[0][0]
        base.execute(
            "SELECT pg_replication_origin_advance('pg_' || oid, %s) FROM pg_subscription WHERE subname = %s",
            [lsn, _names(mob)[2]],
        )
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(subscription))


def transaction_skipped(mob: Mob) -> None:
    """SKIP drops one whole transaction of the legacy: here the next one, by the position at which its commit begins."""
    with session(mob.world.base_url, "stranger") as base:
        subscription = _without_worker(mob, base)
        with session(mob.world.legacy_url, "stranger") as legacy:
            # Nobody else writes to the table between the look at the position and the commit.
            legacy.execute("BEGIN")
            legacy.execute("LOCK TABLE public.bookings IN SHARE ROW EXCLUSIVE MODE")
            legacy.execute("UPDATE public.bookings SET guests = 77 WHERE id = %s", [FIRST_RESERVED + 1])
            row = legacy.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            legacy.execute("COMMIT")
        assert row
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} SKIP (lsn = {})").format(subscription, sql.Literal(row[0])))
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(subscription))
    _journal_reserved(mob)


def filter_narrowed(mob: Mob) -> None:
    """Some weeks no longer come, and nothing fails."""
    publication = sql.Identifier(_names(mob)[1])
    with session(mob.world.legacy_url, "stranger") as legacy:
        legacy.execute(
            sql.SQL(
                "ALTER PUBLICATION {} SET TABLE public.bookings WHERE (booked_at >= '2024-05-15'), migration.markers"
            ).format(publication)
        )
    _change_reserved(mob)


def inserts_only(mob: Mob) -> None:
    with session(mob.world.legacy_url, "stranger") as legacy:
        legacy.execute(sql.SQL("ALTER PUBLICATION {} SET (publish = 'insert')").format(sql.Identifier(_names(mob)[1])))
    _change_reserved(mob)


def subscription_disabled(mob: Mob) -> None:
    with session(mob.world.base_url, "stranger") as base:
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(_names(mob)[2])))
    _change_reserved(mob)


def publication_dropped(mob: Mob) -> None:
    with session(mob.world.legacy_url, "stranger") as legacy:
        legacy.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(_names(mob)[1])))
    _change_reserved(mob)


def identity_by_index(mob: Mob) -> None:
    """With (id, booked_at) as identity a row that comes into the filter brings no unchanged value out of line."""
    run(
        mob.world.legacy_url,
        "CREATE UNIQUE INDEX enemy_identity ON public.bookings (id, booked_at)",
        "ALTER TABLE public.bookings REPLICA IDENTITY USING INDEX enemy_identity",
        "INSERT INTO public.bookings (id, booked_at, document)"
        " VALUES (2900001, '2024-03-01 00:00+00', repeat(md5('1'), 200))",
        "UPDATE public.bookings SET booked_at = '2024-05-01 00:00+00' WHERE id = 2900001",
    )
    _journal_reserved(mob)


def leaf_emptied(mob: Mob) -> None:
    """TRUNCATE is in no publication, and here it is of the follower."""
    week = mob.random.choice(WEEKS)
    run(mob.world.base_url, f"TRUNCATE public.{leaf_of(week)}")


def leaf_detached(mob: Mob) -> None:
    week = mob.random.choice(WEEKS)
    leaf = leaf_of(week)
    run(mob.world.base_url, f"ALTER TABLE public.{leaf[: -len('_w01')]} DETACH PARTITION public.{leaf}")


def trigger_on_the_base(mob: Mob) -> None:
    """Fires for the apply worker, too, and changes what it brings."""
    run(
        mob.world.base_url,
        "CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.guests := coalesce(NEW.guests, 0) + 1; RETURN NEW; END $$",
        "CREATE TRIGGER meddle BEFORE UPDATE ON public.bookings FOR EACH ROW EXECUTE FUNCTION public.meddle()",
        *(f"ALTER TABLE public.{leaf_of(week)} ENABLE ALWAYS TRIGGER meddle" for week in WEEKS),
    )
    _change_reserved(mob)


def label_renamed(mob: Mob) -> None:
    """On the legacy alone: the same bytes mean something else, and every row of it differs as text."""
    run(mob.world.legacy_url, "ALTER TYPE public.mood RENAME VALUE 'rare' TO 'seldom'")
    _journal_reserved(mob)


def row_filter_by_rule(mob: Mob) -> None:
    """Rules do not fire for the apply worker, but for us."""
    run(
        mob.world.base_url,
        "CREATE RULE nothing AS ON INSERT TO public.bookings WHERE NEW.guests IS NULL DO INSTEAD NOTHING",
    )
    _change_reserved(mob)


def hands_off(mob: Mob) -> None:
    """What no rebuild can mend, since it goes on: triggers and rules of a stranger, another meaning of a label.

    The other deeds are done once, and are the product's to mend.
    """
    run(
        mob.world.base_url,
        "DROP FUNCTION IF EXISTS public.meddle() CASCADE",
        "DROP RULE IF EXISTS nothing ON public.bookings",
    )
    renamed = "SELECT FROM pg_enum WHERE enumtypid = 'public.mood'::regtype AND enumlabel = 'seldom'"
    if ask(mob.world.legacy_url, renamed):
        run(mob.world.legacy_url, "ALTER TYPE public.mood RENAME VALUE 'seldom' TO 'rare'")
        _journal_reserved(mob)


def _change_reserved(mob: Mob) -> None:
    """One row of each week, so that what does not arrive is missed in every one."""
    run(mob.world.legacy_url, f"UPDATE public.bookings SET guests = 70 WHERE id >= {FIRST_RESERVED} AND id % 10 = 1"
        f" AND id < {FIRST_RESERVED + 1000}")  # fmt: skip
    _journal_reserved(mob)


def _journal_reserved(mob: Mob) -> None:
    """What the saboteur wrote on the legacy was acknowledged as well."""
    rows = ask(
        mob.world.legacy_url,
        "SELECT b.id, row(b.id, b.booked_at, b.guests, b.price, b.note, b.mood, b.document)::text"
        " FROM public.bookings b WHERE b.id >= %s AND b.id < 2000000 OR b.id >= 2900000",
        FIRST_RESERVED,
    )
    mob.world.journal.commit("legacy", {int(key): str(text) for key, text in rows})


Sabotage = Callable[[Mob], None]
SABOTAGES: tuple[Sabotage, ...] = (
    slot_advanced,
    slot_made_anew,
    origin_advanced,
    transaction_skipped,
    filter_narrowed,
    inserts_only,
    subscription_disabled,
    publication_dropped,
    identity_by_index,
    leaf_emptied,
    leaf_detached,
    trigger_on_the_base,
    label_renamed,
    row_filter_by_rule,
)
