"""While the base is in charge nothing brings the legacy's rows, which are the older ones, into the base."""

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from migration_assets.copying import copying as bulk_copy
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import BaseInChargeError, CutoverError, CutoverKind
from migration_assets.ledger.charge import keep_legacy_in_charge
from migration_assets.ledger.cutovers import begin
from migration_assets.ledger.stream import StreamLock
from migration_assets.postgres.sessions import Timeouts
from migration_assets.stream.holding import continue_stream
from migration_assets.stream.joining import join_stream
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import QUARTER, wait_for

OLDER, LATER = FiscalQuarter(2025, 1), FiscalQuarter(2025, 3)
# Weeks of FY25-Q1: W01 is copied and not under CDC, W02 is open and was never copied.
DOORS: dict[str, Callable[[CutoverGround], object]] = {
    "the copy of a week under CDC": lambda ground: ground.copy(5),
    "the copy of a copied week": lambda ground: ground.copy(1, quarter=OLDER),
    "the copy of a week that was never copied": lambda ground: ground.copy(2, quarter=OLDER),
    "a quarter that joins": lambda ground: ground.stream(OLDER),
    "a quarter that is under CDC": lambda ground: ground.stream(),
    "a rebuild": lambda ground: ground.stream(rebuild=True),
    "a rebuild of all": lambda ground: join_stream(ground.plan, None, rebuild=True, whole_root=True),
    "a repair": lambda ground: ground.repair(5),
    "an undone repair": lambda ground: ground.undo(1),
    "a resumed stream": lambda ground: continue_stream(ground.plan),
}


@pytest.fixture
def apart(ground: CutoverGround) -> Generator[CutoverGround]:
    """The base in charge, and ahead of a legacy that the reverse stream does not reach."""
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (5001, '2024-01-02'), (5002, '2024-01-03')")
    ground.run("base", "UPDATE bookings_fy25_q2_w05 SET guests = 55 WHERE id = 31")
    assert ground.repair(5).repair_id == 1
    ground.open(OLDER)
    ground.copy(1, quarter=OLDER)
    ground.cut()
    ground.run(
        "legacy",
        "DO $$ BEGIN EXECUTE format('ALTER SUBSCRIPTION %I DISABLE', (SELECT subname FROM pg_subscription"
        " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))); END $$",
    )
    ground.run(
        "base",
        "UPDATE bookings SET note = 'newer'",
        "DELETE FROM bookings WHERE id = 5002",
        "INSERT INTO bookings (booked_at, note) VALUES ('2024-01-09', 'born here')",
    )
    yield ground
    ground.run(
        "legacy",
        "DO $$ BEGIN EXECUTE format('ALTER SUBSCRIPTION %I ENABLE', (SELECT subname FROM pg_subscription"
        " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))); END $$",
    )


@pytest.mark.long(but=1)
@pytest.mark.parametrize("door", DOORS)
def test_every_door_is_closed_before_anything_is_touched(apart: CutoverGround, door: str) -> None:
    before = apart.base_state()
    with pytest.raises(BaseInChargeError, match="the base is in charge since") as caught:
        DOORS[door](apart)
    assert "nothing was touched" in str(caught.value)
    assert apart.base_state() == before
    assert len(apart.staging()) == 0
    apart.insert("base", "2024-01-09 12:00+00")


def test_a_door_that_a_rollback_has_opened_again_lets_in_what_is_the_truth_then(ground: CutoverGround) -> None:
    ground.cut()
    ground.back()
    ground.run("legacy", "UPDATE bookings SET note = 'newest' WHERE id = 31")
    ground.copy(5)
    ground.assert_same()


def test_a_copy_that_a_cutover_overtook_puts_nothing_in_place(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The week's own lock keeps a cutover away, where it is not lost; this is what is left where it is."""
    ground.open(LATER)
    load: Callable[..., Any] = bulk_copy.load_slice

    def overtaken(*args: object, **more: object) -> object:
        loaded = load(*args, **more)
        ground.run(
            "base",
            "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, opened_at, outcome)"
            " VALUES ('public.bookings', 'cutover', false, 'Ada', now(), 'succeeded')",
        )
        return loaded

    before = ground.base_state()
    monkeypatch.setattr(bulk_copy, "load_slice", overtaken)
    with pytest.raises(BaseInChargeError, match="is not put in place"):
        ground.copy(1, quarter=LATER)
    assert ground.base_state() == before


def test_a_copy_that_ends_in_the_midst_of_a_cutover_puts_nothing_in_place(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.open(LATER)
    load: Callable[..., Any] = bulk_copy.load_slice
    with ExitStack() as held:

        def meanwhile(*args: object, **more: object) -> object:
            loaded = load(*args, **more)
            held.enter_context(ground.holding(StreamLock.CUTOVER.named(ground.spec.relation)))
            return loaded

        before = ground.base_state()
        monkeypatch.setattr(bulk_copy, "load_slice", meanwhile)
        with pytest.raises(BaseInChargeError, match="a cutover or rollback is under way"):
            ground.copy(1, quarter=LATER)
        assert ground.base_state() == before


def test_a_cutover_does_not_begin_while_what_was_read_from_the_legacy_is_put_in_place(ground: CutoverGround) -> None:
    relation = ground.spec.relation
    known: list[int] = []

    def cut_over() -> None:
        with ground.databases.session("base", "cutover", Timeouts(lock=60_000)) as base:
            known.append(
                begin(base, relation, CutoverKind.CUTOVER, rehearse=True, approved_by="Ada", run_id=None,
                      timeout_seconds=1)
            )  # fmt: skip

    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'migration_assets:cutover'"
        " AND datname = current_database() AND wait_event_type = 'Lock'"
    )
    thread = threading.Thread(target=cut_over)
    with ground.databases.session("base", "copy") as base, base.transaction():
        keep_legacy_in_charge(base, relation)
        # Others who put weeks in place go beside it.
        with ground.databases.session("base", "another copy") as other, other.transaction():
            keep_legacy_in_charge(other, relation)
        thread.start()
        wait_for(lambda: ground.one("base", waits) or known, "it waits")
        assert not known
    thread.join(patience(60))
    assert known == [ground.one("base", "SELECT id FROM migration.cutovers WHERE state = 'begun'")]


def test_a_cutover_that_would_leave_rows_behind_is_not_made(ground: CutoverGround) -> None:
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (5001, '2024-01-02')")
    ground.open(OLDER)
    with pytest.raises(CutoverError, match=r"FY25-Q1\|W01 \(absent, not under CDC\): 1 missing"):
        ground.cut()
    assert (ground.charge(), ground.watch()) == ("legacy", None)
    ground.copy(1, quarter=OLDER)
    ground.run("legacy", "UPDATE bookings SET note = 'changed after its copy' WHERE id = 5001")
    with pytest.raises(CutoverError, match=r"FY25-Q1\|W01 \(copied, not under CDC\)"):
        ground.cut()
    ground.stream(OLDER)
    assert ground.cut().outcome == "succeeded"


@pytest.mark.long
def test_after_a_rollback_every_week_with_a_leaf_is_under_cdc_however_much_it_holds(ground: CutoverGround) -> None:
    ground = replace(ground, stream_limits=replace(ground.stream_limits, join_rows=2))
    ground.cut()
    ground.open(LATER)
    ground.run(
        "base",
        "INSERT INTO bookings (booked_at) SELECT '2024-07-01'::timestamptz + n * interval '6 h'"
        " FROM generate_series(0, 60) n",
    )
    ground.back()
    assert all(ground.record(number, LATER).under_cdc for number in range(1, 14))
    assert ground.record(1, LATER).base == ground.record(1, LATER).legacy
    ground.insert("legacy", "2024-07-02 12:00+00")
    ground.insert("legacy", "2024-09-20 12:00+00")
    ground.run("legacy", "DELETE FROM bookings WHERE booked_at = '2024-07-01'")
    ground.assert_same(QUARTER, LATER)
    assert ground.cut().outcome == "succeeded"
