"""While the base is in charge, the legacy's rows are made those of the base: at a cut, shown first, and taken back."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import LiteralString

import psycopg
import pytest

from migration_assets.cutover import legacy_repair, recovery, reverse_cut
from migration_assets.cutover.legacy_repair import LegacyRepaired, put_back, repair_after_base
from migration_assets.cutover.legacy_writing import repair_outside
from migration_assets.cutover.recovery import recover_reverse
from migration_assets.domain.confirmation import DeletionLimit
from migration_assets.domain.errors import DeletionError, LedgerError
from migration_assets.domain.states import CutoverError
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.stream import StreamLock
from migration_assets.postgres.sessions import Databases
from migration_assets.stream.slots import remove_slot
from migration_assets_tests.conftest import Databases as Made
from migration_assets_tests.cutover.ground import SIDES, CutoverGround, past_the_hold
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.ground import wait_for, week
from migration_assets_tests.stream.rewriting import before as happens
from migration_assets_tests.stream.rewriting import rewrite

# As an application's own, which was made to fire for replicated rows, too.
_TRIGGER = """
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.note := 'touched ' || NEW.guests; RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touched();
ALTER TABLE bookings ENABLE ALWAYS TRIGGER touched
"""

_COUNTED = """
CREATE TABLE public.counted (what text);
CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO public.counted VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER counted AFTER INSERT OR DELETE ON bookings FOR EACH ROW EXECUTE FUNCTION counted()
"""

_MEDDLERS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("BEFORE INSERT", "NEW.note := 'spoiled'; RETURN NEW"),
    ("BEFORE DELETE", "IF OLD.id = 30 THEN RETURN NULL; END IF; RETURN OLD"),
)
_KEEPING = """
CREATE FUNCTION keeping() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keeping BEFORE DELETE ON bookings FOR EACH ROW EXECUTE FUNCTION keeping();
ALTER TABLE bookings ENABLE ALWAYS TRIGGER keeping
"""

_BRINGING = """
CREATE FUNCTION bringing() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO public.bookings SELECT OLD.*; RETURN NULL; END $$;
CREATE TRIGGER bringing AFTER DELETE ON bookings FOR EACH ROW EXECUTE FUNCTION bringing();
ALTER TABLE bookings ENABLE ALWAYS TRIGGER bringing
"""

_AT_THE_MARKER = (
    "SELECT count(*) FROM pg_stat_subscription s CROSS JOIN unnest(pg_blocking_pids(s.pid)) AS b(pid)"
    " JOIN pg_stat_activity a ON a.pid = b.pid AND a.application_name ~ ':cut$'"
)
_FORGET = "DELETE FROM migration.reverse_markers"


def look(ground: CutoverGround, *numbers: int) -> list[tuple[int, int, int]]:
    done = repair_after_base(ground.cutover_plan(), [week(number) for number in numbers or range(1, 14)])
    return [counts(one) for one in done if one.differences.rows]


def undo_newest(ground: CutoverGround, _: int) -> None:
    put_back(ground.cutover_plan(), int(ground.one("base", "SELECT max(id) FROM migration.repairs")))


def mend(ground: CutoverGround, *numbers: int) -> list[LegacyRepaired]:
    done = repair_after_base(ground.cutover_plan(), [week(number) for number in numbers], dry_run=False)
    assert all(one.legacy == one.base for one in done)
    return done


def counts(one: LegacyRepaired) -> tuple[int, int, int]:
    return one.differences.missing, one.differences.extra, one.differences.changed


@contextmanager
def writing(ground: CutoverGround) -> Generator[None]:
    """Somebody who writes to the base all the time, also to a leaf by its own name, and is refused nothing."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with psycopg.connect(ground.databases.base_url, autocommit=True) as base:
                while not stop.is_set():
                    base.execute("UPDATE bookings SET guests = guests + 1 WHERE id % 91 IN (30, 40)")
                    base.execute("INSERT INTO bookings_fy25_q2_w05 (booked_at) VALUES ('2024-05-01 12:00+00')")
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed == []


def undone_by_nobody_who_meddles(ground: CutoverGround, repair_id: int) -> None:
    """What is put back is looked at where it is stored."""
    for when, body in _MEDDLERS:
        ground.run(
            "legacy",
            "CREATE FUNCTION meddles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + body + "; END $$",
            "CREATE TRIGGER meddles " + when + " ON bookings FOR EACH ROW EXECUTE FUNCTION meddles()",
            "ALTER TABLE bookings ENABLE ALWAYS TRIGGER meddles",
        )
        with pytest.raises(LedgerError, match="was not put back as it was"):
            put_back(ground.cutover_plan(), repair_id)
        ground.run("legacy", "DROP FUNCTION meddles CASCADE")
        ground.equal()


@pytest.mark.long
def test_what_a_trigger_or_a_stranger_did_to_the_legacy_is_shown_mended_and_a_rollback_follows(
    ground: CutoverGround,
) -> None:
    ground.run("legacy", _TRIGGER)
    ground.cut()
    ground.run("base", "UPDATE bookings SET guests = 77 WHERE id IN (31, 38)")  # W05 and W06
    settle_down(ground)
    past_the_hold(ground, "INSERT INTO bookings (id, booked_at) VALUES (9001, '2024-05-01')")
    past_the_hold(ground, "DELETE FROM bookings WHERE id = 30")
    # To the legacy a key is there once, whatever its time.
    past_the_hold(ground, "UPDATE bookings SET booked_at = booked_at + interval '7 days' WHERE id = 32")
    before = ground.contents("legacy")
    with pytest.raises(CutoverError, match=r"(?s)stopped at compared: .*W05: 1 missing, 2 extra, 1 changed") as caught:
        ground.back()
    assert "migration-assets repair-legacy" in caught.value.next_step

    shown = repair_after_base(ground.cutover_plan(), [week(5)])[0]
    assert counts(shown) == (2, 1, 1)
    assert {(one.kind.value, one.key["id"], one.columns) for one in shown.differences.sample} == {
        ("missing", "30", ()), ("missing", "32", ()), ("extra", "9001", ()), ("changed", "31", ("note",)),
    }  # fmt: skip
    assert look(ground) == [(2, 1, 1), (0, 1, 1)]
    assert ground.contents("legacy") == before
    with pytest.raises(CutoverError, match="a week that was not named"):
        mend(ground, 5)
    assert ground.contents("legacy") == before
    ground.run("legacy", "CREATE TRIGGER meddles BEFORE INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION touched()",
               "ALTER TABLE bookings ENABLE ALWAYS TRIGGER meddles")  # fmt: skip
    with pytest.raises(CutoverError, match="W05: something on the legacy changes rows on their way in"):
        mend(ground, 5, 6)
    ground.run("legacy", "DROP TRIGGER meddles ON bookings")
    assert ground.contents("legacy") == before
    assert ground.watch() is None

    # What the applications have the legacy do by itself they had the base do already.
    ground.run("legacy", _COUNTED)
    ids = [one.repair_id for one in mend(ground, 5, 6)]
    assert ground.one("legacy", "SELECT count(*) FROM public.counted") == 0
    settle_down(ground)
    ground.equal()
    assert look(ground) == []
    assert ground.ask("base", "SELECT side, applied FROM migration.repairs ORDER BY id")[-2:] == [("legacy", True)] * 2

    # What was mended at once is taken back at once.
    assert ids[0] is not None
    undone_by_nobody_who_meddles(ground, ids[0])
    assert put_back(ground.cutover_plan(), ids[0]) == ["FY25-Q2|W05", "FY25-Q2|W06"]
    for repair_id in ids:
        with pytest.raises(LedgerError, match="was undone at"):
            put_back(ground.cutover_plan(), repair_id or 0)
    assert ground.contents("legacy") == before
    with writing(ground):
        mend(ground, *range(1, 14))
    settle_down(ground)
    # What the trigger did to the rows that were written meanwhile is its own doing.
    ground.run("legacy", "ALTER TABLE bookings DISABLE TRIGGER touched")
    with writing(ground):
        mend(ground, *range(1, 14))
    settle_down(ground)
    ground.equal()
    assert ground.back().outcome == "succeeded"
    ground.assert_same()


@pytest.mark.long
def test_whatever_dies_in_between_the_legacy_is_whole_and_a_rollback_goes_on(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CutoverError, match="the legacy is in charge"):
        look(ground)
    ground.cut()
    past_the_hold(ground, "UPDATE bookings SET guests = 77 WHERE id = 31")
    before = ground.contents("legacy")
    kept: Callable[..., dict[int, int]] = legacy_repair.keep_images

    def dies(*given: object) -> dict[int, int]:
        kept(*given)
        # Until here nobody got past the repair, whatever he does to the hold.
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ground.run("legacy", "SET lock_timeout = '200ms'", "UPDATE bookings SET guests = 1 WHERE id = 31")
        raise KeyboardInterrupt

    monkeypatch.setattr(legacy_repair, "keep_images", dies)
    with pytest.raises(KeyboardInterrupt):
        mend(ground, 5)
    monkeypatch.undo()
    assert ground.contents("legacy") == before
    (repair_id,) = ground.ask("base", "SELECT max(id) FROM migration.repairs")[0]
    with pytest.raises(LedgerError, match="never came to be"):
        put_back(ground.cutover_plan(), repair_id)
    # A legacy that restarts may have lost the marker at which its stream was to rest.
    with monkeypatch.context() as patch:
        happens(patch, reverse_cut, "reverse_arrived", lambda: ground.run("legacy", _FORGET))
        with pytest.raises(CutoverError, match="the marker was not applied"):
            mend(ground, 5)
    assert ground.contents("legacy") == before
    # Died after the legacy's commit, and before the ledger was told; and it left the stream at rest.
    done = mend(ground, 5)
    last = " WHERE id = (SELECT max(id) FROM migration.repairs)"
    ground.run("base", "UPDATE migration.repairs SET applied = NULL" + last)
    ground.run("legacy", REVERSE.replace("{}", "DISABLE"))
    ground.insert("base")
    assert done[0].repair_id is not None
    put_back(ground.cutover_plan(), done[0].repair_id)
    assert ground.one("legacy", "SELECT guests FROM bookings WHERE id = 31") == 77
    done = mend(ground, 5)
    # A transaction of which the server itself has forgotten what became of it.
    ground.run("base", "UPDATE migration.repairs SET applied = NULL, legacy_transaction = '3'" + last)
    with pytest.raises(LedgerError, match="may never have come to be"):
        put_back(ground.cutover_plan(), done[0].repair_id or 0)
    ground.run("legacy", REVERSE.replace("{}", "DISABLE"))
    mend(ground, 5)
    ground.run("legacy", REVERSE.replace("{}", "DISABLE"))
    assert ground.back().outcome == "succeeded"
    ground.assert_same()


@pytest.mark.long
def test_a_repair_whose_rows_are_in_another_week_by_now_is_not_taken_back(
    ground: CutoverGround, servers: EmbeddedServers
) -> None:
    """Nor does the server log, which has every statement that fails, get the rows that were to be put back."""
    ground.cut()
    past_the_hold(ground, "UPDATE bookings SET guests = 77, note = 'card 4111-1111' WHERE id = 31")
    done = mend(ground, 5)
    ground.run("base", "UPDATE bookings SET booked_at = booked_at + interval '7 days' WHERE id = 31")
    settle_down(ground)
    with pytest.raises(LedgerError, match=r"put back as it was: UniqueViolation \(bookings_pkey\)") as no:
        put_back(ground.cutover_plan(), done[0].repair_id or 0)
    assert "31" not in str(no.value)
    (log,) = (one.data_folder.parent / "server.log" for one in servers.status() if one.name == "legacy")
    logged = log.read_text(errors="replace")
    assert "AS image FROM unnest" in logged, "the statement that failed"
    assert "card 4111-1111" not in logged.partition("AS image FROM unnest")[2]
    ground.insert("base")
    settle_down(ground)
    ground.equal()


@pytest.mark.long
def test_a_key_that_the_server_checks_late_is_looked_at_before_a_repair_or_its_undo_is_done(databases: Made) -> None:
    """No trigger fires for our rows, and what checks a deferrable key is one."""
    ground = CutoverGround(Databases(databases.legacy_url, databases.base_url))
    ground.fill(364)
    ground.run("legacy", "ALTER TABLE bookings DROP CONSTRAINT bookings_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
               # A name that looks like a parameter.
               'ALTER TABLE bookings RENAME price TO "100% net"',
               'ALTER TABLE bookings ADD UNIQUE ("100% net", booked_at) DEFERRABLE')  # fmt: skip
    ground.streamed()
    ground.cut()
    later = "UPDATE bookings SET booked_at = booked_at + interval '7 days' WHERE id = 32"
    past_the_hold(ground, later)
    with pytest.raises(CutoverError, match=r"has a key that another row of the legacy has: \(id\)") as refused:
        mend(ground, 5)
    assert "name that week, too" in refused.value.next_step
    done = mend(ground, 5, 6)
    ground.equal()
    assert put_back(ground.cutover_plan(), done[0].repair_id or 0) == ["FY25-Q2|W05", "FY25-Q2|W06"]
    done = mend(ground, 5, 6)
    # By now the row is in the week after that.
    ground.run("base", later, later)
    settle_down(ground)
    with pytest.raises(CutoverError, match=r"has a key that another row of the legacy has: \(id\)"):
        put_back(ground.cutover_plan(), done[0].repair_id or 0)
    ground.insert("base")
    settle_down(ground)
    ground.equal()


@pytest.mark.long
def test_a_rewrite_at_every_moment_waits_or_is_told_and_empties_nothing(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that is older than a rewrite shows an empty table, on the base as on the legacy."""
    ground.cut()
    with monkeypatch.context() as patch:
        tried = happens(patch, reverse_cut, "_wait_at", lambda: [rewrite(ground, side) for side in SIDES])
        assert look(ground, 5) == []
        assert tried == [[False, False]]
    with monkeypatch.context() as patch:
        tried = happens(patch, reverse_cut, "_wait_at", lambda: rewrite(ground, "base"))
        # The worker waits at the marker until its subscription is disabled: nothing later is applied.
        waits = happens(patch, reverse_cut, "disable", lambda: ground.one("legacy", _AT_THE_MARKER))
        assert counts(mend(ground, 5)[0]) == (0, 0, 0)
        assert (tried, waits) == ([False], [1])
    # A slot's snapshot cannot be taken under a lock.
    ground.run("legacy", REVERSE.replace("{}", "DISABLE"))
    with ground.databases.session("base", "test") as base:
        remove_slot(base, f"{ground.stream_record().slot}_back")
    ground.run("legacy", REVERSE.replace("{}", "ENABLE"))
    with monkeypatch.context() as patch:
        between = happens(patch, recovery, "in_snapshot", lambda: rewrite(ground, "base"))
        with pytest.raises(CutoverError, match="rewritten while the slot was made"):
            recover_reverse(ground.cutover_plan(), "Ada")
        assert between == [True]
    assert len(ground.contents("legacy")) == 910
    assert recover_reverse(ground.cutover_plan(), "Ada") is not None
    ground.insert("base")
    settle_down(ground)
    ground.equal()


@pytest.mark.long
def test_rows_in_no_week_and_many_rows_are_taken_off_by_a_persons_word(ground: CutoverGround) -> None:
    ground.cut()
    whole = ground.contents("legacy")
    past_the_hold(ground, "INSERT INTO bookings (id, booked_at) VALUES (9002, '1999-01-01'), (9003, 'infinity')")
    with pytest.raises(CutoverError, match=r"(?s)stopped at begun: .*1 row with an infinite time.*--outside"):
        ground.back()
    assert [one.rows for one in repair_outside(ground.cutover_plan()).found] == [1, 1]
    # Many of these do not go without a person's word either.
    none_free = replace(ground.plan, limits=replace(ground.plan.limits, deletions=DeletionLimit(rows=1)))
    for confirmed in (0, 1):
        with pytest.raises(DeletionError, match="2 rows of the legacy would be deleted") as asked:
            repair_outside(ground.cutover_plan(stream=none_free), dry_run=False, confirmed=confirmed)
        assert "--confirm-outside 2" in asked.value.next_step
    ground.run("legacy", _KEEPING)
    with pytest.raises(CutoverError, match="2 rows were to be taken off the legacy, and 0 went"):
        repair_outside(ground.cutover_plan(), dry_run=False)
    ground.run("legacy", "DROP FUNCTION keeping() CASCADE", _BRINGING)
    with pytest.raises(CutoverError, match="2 rows were to be taken off the legacy, and 2 went and others came"):
        repair_outside(ground.cutover_plan(), dry_run=False)
    ground.run("legacy", "DROP FUNCTION bringing() CASCADE")
    assert len(ground.contents("legacy")) == len(whole) + 2
    taken = repair_outside(ground.cutover_plan(stream=none_free), dry_run=False, confirmed=2)
    assert ground.contents("legacy") == whole
    assert put_back(ground.cutover_plan(), taken.repair_id or 0) == ["rows outside all weeks"]
    assert len(ground.contents("legacy")) == len(whole) + 2
    assert repair_outside(ground.cutover_plan(), dry_run=False).repair_id is not None
    # Many rows do not go without a person's word.
    past_the_hold(
        ground, "INSERT INTO bookings (id, booked_at) SELECT n, '2024-05-01' FROM generate_series(10001, 11001) n"
    )
    with pytest.raises(DeletionError, match="1,001 of the week's 1,071 rows would be deleted from the legacy"):
        mend(ground, 5)
    limits = replace(ground.plan, confirmed_deletes={week(5): 1001})
    repair_after_base(ground.cutover_plan(stream=limits), [week(5)], dry_run=False)
    assert ground.contents("legacy") == whole


REVERSE = (
    "DO $$ BEGIN EXECUTE format('ALTER SUBSCRIPTION %I {}', (SELECT subname FROM pg_subscription"
    " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))); END $$"
)


@pytest.mark.long(but=1)
@pytest.mark.parametrize(("module", "function"), [(reverse_cut, "_wait_at"), (legacy_repair, "transaction_of")])
def test_a_repair_that_stands_still_keeps_nobody_from_going_back(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch, module: object, function: str
) -> None:
    """Its session on the base was ended, as the error invites to; those on the legacy hold the marker, or the table."""
    ground.cut()
    past_the_hold(ground, "UPDATE bookings SET note = 'strange' WHERE id = 30")

    def meanwhile(*_: object, **__: object) -> None:
        monkeypatch.undo()
        ground.end_who_cuts_over()
        mend(ground, 5)
        assert ground.back().outcome == "succeeded"
        raise TimeoutError

    monkeypatch.setattr(module, function, meanwhile)
    with pytest.raises((TimeoutError, psycopg.OperationalError)):
        repair_after_base(ground.cutover_plan(), [week(5)], dry_run=False)
    ground.equal()
    assert ground.insert("legacy")


@pytest.mark.parametrize("work", [look, mend, undo_newest], ids=["look", "repair", "undo"])
def test_whoever_waits_for_a_slice_keeps_nobody_from_the_stream(
    ground: CutoverGround, work: Callable[[CutoverGround, int], object]
) -> None:
    """A sign-off takes slices, then the stream: the other way round the two would wait for each other."""
    ground.cut()
    past_the_hold(ground, "DELETE FROM bookings WHERE id = 30")
    [repaired] = mend(ground, 5)
    assert repaired.repair_id is not None
    record = ground.record(5)
    stream = StreamLock.STREAM.named(ground.spec.relation)
    with ThreadPoolExecutor(1) as pool:
        with ground.holding(f"slice {record.lock_key}"):
            waiting = pool.submit(work, ground, 5)
            wait_for(lambda: ground.queue(f"slice {record.lock_key}") == 2, "somebody waits for the slice")
            assert ground.queue(stream) == 0
        waiting.result()
