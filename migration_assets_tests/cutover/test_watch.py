"""The watch after a real cutover: silent while all is as it should be, and red for each thing that is not."""

import psycopg
import pytest
from psycopg import sql

from migration_assets.cutover.recovery import recover_reverse
from migration_assets.cutover.writes import hold_again
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.guard import Guard, guard_of, migration_of
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for

C = ProblemCode
LET_THROUGH = "SELECT set_config('migration.hold_token', token, true) FROM migration.hold_token"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
DROP = ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)", "DROP SUBSCRIPTION {}")


@pytest.fixture
def guard(ground: CutoverGround) -> Guard:
    return guard_of(ground)


def back_name(ground: CutoverGround) -> str:
    return f"{ground.stream_record().slot}_back"


def on_legacy(ground: CutoverGround, *statements: str) -> None:
    """With the name of the reverse subscription in place of {}."""
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy:
        for statement in statements:
            legacy.execute(statement.format(back_name(ground)).encode())


def critical(guard: Guard) -> dict[ProblemCode, bool]:
    return {code: one.severity is Severity.CRITICAL for code, one in guard.problems().items()}


@pytest.mark.long
def test_from_before_a_cutover_to_after_a_rollback_nothing_is_alarmed_about(
    ground: CutoverGround, guard: Guard
) -> None:
    cutover = guard.silent(1).sample.cutover
    assert cutover is not None
    assert (cutover.in_charge, cutover.case) == ("legacy", None)

    ground.cut()
    ground.open(FiscalQuarter(2025, 3))  # nobody brings it under CDC
    sample = guard.silent().sample
    assert sample.cutover is not None
    reverse = sample.cutover.reverse
    assert reverse is not None
    assert (reverse.arrived, reverse.slot_active, reverse.wal_status) == (True, True, "reserved")
    assert 0 <= (sample.seconds_behind or -1) < patience(5)
    assert (sample.runway_days or 0) > 130, "by leaves alone"
    assert "the reverse stream runs" in (sample.cutover.case or "")

    ground.back()
    sample = guard.silent().sample
    assert sample.heartbeat_arrived
    assert sample.cutover is not None
    assert (sample.cutover.in_charge, sample.cutover.reverse) == ("legacy", None)
    with psycopg.connect(ground.databases.base_url) as base:
        name = sql.Identifier(ground.stream_record().subscription)
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
    assert set(guard.problems()) == {C.SUBSCRIPTION_DISABLED, C.STREAM_ALTERED}


def test_alerts_of_the_change_stream_are_cleared_by_a_cutover(ground: CutoverGround, guard: Guard) -> None:
    assert set(guard.problems(lag_warning_seconds=1e-9)) == {C.LAG}
    ground.cut()
    assert [guard.look().cleared for _ in range(2)] == [(), ()]
    assert [alert.code for alert in guard.look().cleared] == [C.LAG]


def test_a_reverse_stream_that_is_disabled_is_told_until_it_runs_again(ground: CutoverGround, guard: Guard) -> None:
    ground.cut()
    guard.silent(1)
    on_legacy(ground, "ALTER SUBSCRIPTION {} DISABLE")
    assert critical(guard) == {C.REVERSE_DOWN: True}
    assert "ENABLE, on the legacy" in guard.problems()[C.REVERSE_DOWN].next_step
    on_legacy(ground, "ALTER SUBSCRIPTION {} ENABLE")
    wait_for(lambda: not guard.problems(), "it runs again")
    guard.silent(2)


@pytest.mark.long
def test_what_the_next_step_says_brings_a_dropped_subscription_back(ground: CutoverGround, guard: Guard) -> None:
    ground.cut()
    on_legacy(ground, *DROP)
    ground.insert("base")
    assert "stream recover --by NAME" in guard.problems()[C.REVERSE_DOWN].next_step
    assert recover_reverse(ground.cutover_plan(), "Ada") is not None
    wait_for(lambda: not guard.problems(), "it is well")
    ground.equal()


def test_a_slot_of_the_reverse_stream_that_is_gone_is_told(ground: CutoverGround, guard: Guard) -> None:
    ground.cut()
    on_legacy(ground, "ALTER SUBSCRIPTION {} DISABLE")
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    wait_for(lambda: not ground.one("base", active, back_name(ground)), "the walsender ends")
    ground.ask("base", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ '_back$'"
               " AND database = current_database()")  # fmt: skip
    on_legacy(ground, "ALTER SUBSCRIPTION {} ENABLE")
    assert C.REVERSE_SLOT_LOST in guard.problems(heartbeat_seconds=0.5)


def test_wal_that_the_base_keeps_for_the_legacy_is_told(ground: CutoverGround, guard: Guard) -> None:
    ground.cut()
    on_legacy(ground, "ALTER SUBSCRIPTION {} DISABLE")
    ground.run("base", "UPDATE bookings SET guests = guests + 1")
    assert C.REVERSE_RETAINED_WAL in guard.problems(retained_wal_warning_gb=1e-6)


def test_a_legacy_that_accepts_writes_beside_the_base_is_told(ground: CutoverGround, guard: Guard) -> None:
    ground.cut()
    on_legacy(ground, "ALTER TABLE bookings DISABLE TRIGGER migration_assets_hold")
    assert critical(guard) == {C.LEGACY_WRITABLE: True}
    on_legacy(ground, "ALTER TABLE bookings ENABLE ALWAYS TRIGGER migration_assets_hold")
    guard.silent(1)
    on_legacy(ground, "DROP TRIGGER migration_assets_hold ON bookings")
    found = guard.problems()
    assert "migration_assets_hold of public.bookings does not exist" in found[C.LEGACY_WRITABLE].what
    assert "`migration-assets hold-again`" in found[C.LEGACY_WRITABLE].next_step
    assert "repair-legacy` over every quarter" in hold_again(ground.cutover_plan())
    guard.silent(1)
    assert "compare" not in hold_again(ground.cutover_plan()), "nothing was open"


@pytest.mark.long
def test_a_key_that_is_used_again_jams_the_reverse_stream_and_the_remedy_frees_it(
    ground: CutoverGround, guard: Guard
) -> None:
    ground.cut()
    guard.silent(1)
    on_legacy(ground, "CREATE TABLE kept AS SELECT * FROM bookings WHERE id = 1")
    ground.run("base", "INSERT INTO bookings (id, booked_at) VALUES (1, '2024-06-20')")
    seen: dict[ProblemCode, str] = {}

    def told() -> bool:
        found = guard.problems(heartbeat_seconds=0.3, lag_warning_seconds=0.1)
        seen.update({code: one.next_step for code, one in found.items()})
        return set(seen) >= {C.REVERSE_APPLY_ERRORS, C.REVERSE_DOWN}

    wait_for(told, "the errors are counted")
    assert set(seen) == {C.REVERSE_APPLY_ERRORS, C.REVERSE_DOWN}
    assert "used a key again in another week" in seen[C.REVERSE_APPLY_ERRORS]
    # As the next step says.
    assert LET_THROUGH in seen[C.REVERSE_APPLY_ERRORS]
    ground.run("base", "UPDATE bookings SET id = 100001 WHERE id = 1 AND booked_at = '2024-06-20'")
    on_legacy(ground, "BEGIN", LET_THROUGH, "DELETE FROM bookings WHERE id = 1", "COMMIT")
    wait_for(lambda: ground.one("legacy", "SELECT count(*) FROM bookings WHERE id = 100001"), "the stream goes on")
    on_legacy(ground, "BEGIN", LET_THROUGH, "INSERT INTO bookings SELECT * FROM kept", "COMMIT")
    ground.equal()
    wait_for(lambda: not guard.problems(), "it is well")


@pytest.mark.long
def test_after_a_decommission_the_reverse_stream_is_nobodys_business(ground: CutoverGround, guard: Guard) -> None:
    ground.cut()
    on_legacy(ground, "ALTER SUBSCRIPTION {} DISABLE")
    assert set(guard.problems()) == {C.REVERSE_DOWN}
    ground.run(
        "base",
        "INSERT INTO migration.decommissions (relation, cutover, approved_by, scope, state)"
        " SELECT 'public.bookings', max(id), 'Ada', 'table', 'closed' FROM migration.cutovers",
    )
    closed = Guard(migration_of(Databases(NOWHERE, ground.databases.base_url)))
    sample = closed.silent().sample
    assert sample.legacy_error is None
    assert "the legacy was decommissioned at" in str(sample.cutover and sample.cutover.case)
