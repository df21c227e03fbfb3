"""What a drill needs: a table under CDC on servers that may be lost, and the judge, who compares as text."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from psycopg import sql
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week
from migration_assets.cutover.machine import cut_over
from migration_assets.cutover.plan import cutover_plan
from migration_assets.cutover.recovery import recover_stream
from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.findings import Finding
from migration_assets.domain.samples import ProblemCode, StreamSample
from migration_assets.domain.stream_watch import Problem, View, evaluate
from migration_assets.embedded.cluster import Cluster
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.ledger.preflights import record_preflight
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import run_preflight
from migration_assets.retirement.retiring import retire_week
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.holding import resume_stream, start_stream
from migration_assets.watch.look import LookLimits, observe_stream
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import QUARTER, Ground, wait_for, week
from migration_assets_tests.servers.standbys import Spare

KEPT = "SELECT count(*) FROM migration.repaired_rows WHERE kind = 'extra' AND before LIKE '%drill%'"
PATIENT = LookLimits(heartbeat_seconds=10.0)


def streamed(spare: Spare, rows: int = 182) -> Ground:
    """A small table under CDC, all weeks of FY25-Q2 validated at one cut."""
    name = f"drill_{secrets.token_hex(4)}"
    spare.recreate(name)
    ground = Ground(Databases(spare.url("legacy", name), spare.url("base", name))).fill(rows).streamed()
    assert ground.reconcile().equal
    return ground


def in_charge(spare: Spare, rows: int = 182) -> CutoverGround:
    """A small table whose base is in charge, and whose legacy follows."""
    name = f"drill_{secrets.token_hex(4)}"
    spare.recreate(name)
    ground = CutoverGround(Databases(spare.url("legacy", name), spare.url("base", name)))
    ground.fill(rows)
    ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), %s)", rows)
    ground.streamed()
    assert ground.cut().outcome == "succeeded"
    return ground


def findings(ground: Ground) -> list[Finding]:
    """What preflight says."""
    plan = PreflightPlan(as_of=datetime(2024, 6, 24, tzinfo=UTC))
    return run_preflight(ground.databases, ground.spec, ground.calendar, plan=plan)


def migration(ground: Ground) -> Migration:
    """The product on the ground's table."""
    return open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(ground.databases.legacy_url),
            base_url=SecretStr(ground.databases.base_url),
            table="public.bookings",
            control_column="booked_at",
            as_of=None,
            retry_attempts=1,
        )
    )


def book(ground: Ground, ids: Sequence[int]) -> None:
    """Bookings on the legacy, one transaction each, in W05."""
    for number in ids:
        ground.ask(
            "legacy",
            "INSERT INTO bookings (id, booked_at, guests, note) VALUES (%s, '2024-05-01 10:00+00', 1, 'drill')"
            " RETURNING 1",
            number,
        )


def put_back(spare: Spare, ground: Ground, side: Side) -> None:
    """Thirty bookings arrive, then the side's files are put back as they were before them; nobody was told anything.

    They are below 2000; the slot takes them for applied.
    """
    kept = spare.keep_files(side)
    wait_for(lambda: look(ground)[0].heartbeat_arrived, "the stream goes on")
    book(ground, range(1001, 1031))
    ground.drain()
    assert look(ground)[1] == {}
    confirmed(ground, "legacy")
    spare.put_back(side, kept)


def left_behind(
    spare: Spare, ground: Ground, side: Side, ids: Sequence[int], standby: Cluster | None = None
) -> Cluster:
    """A standby of the side that lacks these bookings, and runs; the server that had them is dead."""
    standby = standby or spare.standby(side)
    standby.stop()
    book(ground, ids)
    ground.drain()
    spare.clusters[side].kill()
    return spare.began(standby)


def confirmed(ground: Ground, publisher: Side) -> None:
    """Waits until the publisher's slot takes everything that was committed so far for applied, for good.

    The subscriber says so now and then, some time after it has applied: what it has not said is sent again.
    """
    until = ground.one(publisher, "SELECT pg_current_wal_lsn()::text")
    wait_for(
        lambda: ground.one(
            publisher, "SELECT bool_and(confirmed_flush_lsn >= %s::pg_lsn) FROM pg_replication_slots"
            " WHERE database = current_database()", until
        ),
        "the slot has confirmed it",
    )  # fmt: skip


def look(ground: Ground) -> tuple[StreamSample, dict[ProblemCode, Problem]]:
    """One look, and what is wrong at it."""
    sample = observe_stream(ground.databases, ground.spec, PATIENT)
    return sample, {problem.code: problem for problem in evaluate(View(sample)).problems}


def refused_everywhere(ground: Ground, why: str, *, each_looks: bool = False) -> None:
    """No step that rests on the stream or its proofs goes on, and each says which command mends it.

    With `each_looks` nobody has looked before the step, which must find out by itself.
    """
    product = migration(ground)
    steps = {
        "sign-off": lambda: sign_off_quarter(product, QUARTER, "Ada"),
        "validate": lambda: ground.validate(5),
        "repair": lambda: ground.repair(5),
        "reconcile": ground.reconcile,
        "copy live": lambda: ground.copy(5),
        "join": ground.stream,
        "resume": lambda: resume_stream(product),
        "start": lambda: start_stream(product, QUARTER),
        "cutover": lambda: cut_over(cutover_plan(product), approved_by="Ada"),
        "archive": lambda: archive_week(product, week(5)),
        "retire": lambda: retire_week(product, week(5)),
    }
    slot = ground.stream_record().slot
    with ground.databases.session("base", "test") as base:
        record_preflight(base, ground.spec.relation, [], None)  # which a start asks for first
    for name, step in steps.items():
        if each_looks:
            forget(ground, slot)
        with pytest.raises(ServerChangedError, match=why) as refused:
            pytest.fail(f"{name} was not refused: {step()}")
        assert "migration-assets stream recover --by NAME" in refused.value.next_step, name
        assert not ground.one("base", "SELECT subenabled FROM pg_subscription WHERE subname = %s", slot), name


def forget(ground: Ground, subscription: str) -> None:
    """As if nobody had looked at the servers since one of them became another."""
    ground.run("base", "DELETE FROM migration.server_changes", "UPDATE migration.streams SET status = 'live'")
    with ground.databases.session("base", "test") as base:
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(subscription)))


def mended(ground: Ground) -> None:
    """One command, after which both sides are equal as text, and stay so; the servers are known anew, and by whom."""
    product = migration(ground)
    assert recover_stream(product, "Ada") is not None
    ground.assert_same()
    book(ground, [900_001])
    ground.assert_same()
    assert look(ground)[1] == {}
    assert ground.ask("base", "SELECT DISTINCT recorded_by FROM migration.servers") == [("Ada",)]
    assert ground.ask("base", "SELECT mended_by FROM migration.server_changes") == [("Ada",)]
    assert recover_stream(product, "Ada") is None
    assert ground.reconcile().equal
    assert sign_off_quarter(product, QUARTER, "Ada").approved_by == "Ada"


def lost_rows_are_kept(ground: Ground, rows: int) -> None:
    """What the base had and the legacy lost is out of the base, and in the images of before."""
    assert ground.one("base", "SELECT count(*) FROM bookings WHERE id BETWEEN 1001 AND 1100") == 0
    assert ground.one("base", KEPT) == rows
