"""Somebody makes the stream skip changes between two looks: no proof from before is taken for one any more."""

from collections.abc import Callable
from typing import LiteralString

import pytest
from psycopg import sql

from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.sign_off import SignOffRefusedError
from migration_assets.domain.states import CutoverError
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.stream.holding import continue_stream, hold_stream
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import QUARTER, wait_for
from migration_assets_tests.servers.drill import look, migration

CHANGE: LiteralString = "UPDATE bookings SET guests = 77 WHERE id = 30"


def on(ground: CutoverGround, side: str, *statements: LiteralString) -> None:
    """With the name of the stream's parts in place of {}."""
    name = sql.Identifier(ground.stream_record().publication)
    with ground.databases.session("base" if side == "base" else "legacy", "stranger") as connection:
        for statement in statements:
            connection.execute(sql.SQL(statement).format(name))


def without_worker(ground: CutoverGround) -> None:
    on(ground, "base", "ALTER SUBSCRIPTION {} DISABLE")
    idle = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s"
    wait_for(lambda: ground.one("legacy", idle, ground.stream_record().slot), "the slot is free")


def skip_a_transaction(ground: CutoverGround) -> None:
    without_worker(ground)
    with ground.databases.session("legacy", "stranger") as legacy, legacy.transaction():
        legacy.execute("UPDATE public.bookings SET guests = 77 WHERE id = 30")
        # Where the record of the commit begins: that is what SKIP wants.
        end = legacy.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert end
    with ground.databases.session("base", "stranger") as base:
        name = sql.Identifier(ground.stream_record().subscription)
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} SKIP (lsn = {})").format(name, sql.Literal(end[0])))
    on(ground, "base", "ALTER SUBSCRIPTION {} ENABLE")


def advance_the_slot(ground: CutoverGround) -> None:
    without_worker(ground)
    ground.run("legacy", CHANGE)
    slot = ground.stream_record().slot
    ground.one("legacy", "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())::text", slot)
    on(ground, "base", "ALTER SUBSCRIPTION {} ENABLE")


def advance_the_origin(ground: CutoverGround) -> None:
    without_worker(ground)
    ground.run("legacy", CHANGE)
    ground.ask(
        "base",
        "SELECT pg_replication_origin_advance('pg_' || oid, %s) FROM pg_subscription WHERE subname = %s",
        ground.one("legacy", "SELECT pg_current_wal_lsn()::text"),
        ground.stream_record().subscription,
    )
    on(ground, "base", "ALTER SUBSCRIPTION {} ENABLE")


def publish_inserts_alone_for_a_while(ground: CutoverGround) -> None:
    on(ground, "legacy", "ALTER PUBLICATION {} SET (publish = 'insert')")
    ground.run("legacy", CHANGE)
    on(ground, "legacy", "ALTER PUBLICATION {} SET (publish = 'insert, update, delete')")


def publish_another_range_for_a_while(ground: CutoverGround) -> None:
    record = ground.stream_record()
    on(ground, "legacy", "ALTER PUBLICATION {} DROP TABLE public.bookings")
    ground.run("legacy", CHANGE)
    with ground.databases.session("legacy", "stranger") as legacy:
        legacy.execute(
            f"ALTER PUBLICATION {record.publication} ADD TABLE public.bookings WHERE {record.row_filter}".encode()
        )


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    "deed",
    [skip_a_transaction, advance_the_slot, advance_the_origin, publish_inserts_alone_for_a_while,
     publish_another_range_for_a_while],
)  # fmt: skip
def test_what_was_proven_before_the_stream_was_altered_is_proven_no_more(
    ground: CutoverGround, deed: Callable[[CutoverGround], None]
) -> None:
    product = migration(ground)
    assert ground.reconcile().equal
    # Our own pauses and cuts are no alteration, nor is what a server does to its catalogue by itself.
    hold_stream(ground.plan, "a test")
    continue_stream(ground.plan)
    ground.run("base", "VACUUM (FULL, FREEZE) pg_subscription")
    ground.run("legacy", "VACUUM (FULL, FREEZE) pg_publication", "VACUUM (FULL, FREEZE) pg_publication_rel")
    ground.drain()
    assert look(ground)[1] == {}
    assert sign_off_quarter(product, QUARTER, "Ada").approved_by == "Ada"
    deed(ground)
    ground.drain()
    assert ground.contents("base") != ground.contents("legacy")
    problem = look(ground)[1][ProblemCode.STREAM_ALTERED]
    assert "by hand" in problem.what
    assert problem.what.endswith("13 weeks were proven before that")
    with pytest.raises(SignOffRefusedError, match="change stream was altered by hand since then"):
        sign_off_quarter(product, QUARTER, "Ada")
    with pytest.raises(CutoverError, match=r"the sides differ: FY25-Q2\|W05: .* 0 missing, 0 extra, 1 changed"):
        ground.cut(compare_all=False)
    assert ground.repair(5).differences.changed == 1
    assert ground.reconcile().equal
    assert look(ground)[1] == {}
    assert sign_off_quarter(product, QUARTER, "Ada").approved_by == "Ada"
