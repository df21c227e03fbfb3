"""After an abandoned migration the legacy is as it was found, whatever it was like and however far we had come."""

from dataclasses import replace
from datetime import timedelta
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from migration_assets.abandon.abandon import abandon, clean
from migration_assets.cutover.holds import hold, release
from migration_assets.cutover.machine import roll_back
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import prepare_reverse, reverse_names
from migration_assets.cutover.writes import release_writes
from migration_assets.domain.errors import SignOffError, StreamError
from migration_assets.domain.states import BaseInChargeError, CutoverError
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.ledger.session_locks import make_session_locks
from migration_assets.ledger.stream import StreamLock, StreamNames, stream_lock
from migration_assets.postgres.sessions import Databases
from migration_assets.proof.sign_offs import SeenNow, read_sign_off, record_sign_off
from migration_assets_tests.abandon.catalogue import assert_as_found, catalogue
from migration_assets_tests.ground import QUARTER, Ground, attempt_of

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
IDENTITIES: dict[str, tuple[LiteralString, ...]] = {
    "default": (),
    "nothing": ("ALTER TABLE bookings REPLICA IDENTITY NOTHING",),
    "full": ("ALTER TABLE bookings REPLICA IDENTITY FULL",),
    "an index with an odd name": (
        'CREATE UNIQUE INDEX "Key of, bookings" ON bookings (id, booked_at)',
        'ALTER TABLE bookings REPLICA IDENTITY USING INDEX "Key of, bookings"',
    ),
}


def _signed(ground: Ground) -> None:
    ground.reconcile()
    with ground.databases.session("base", "test") as base:
        record_sign_off(
            base, ground.spec, QUARTER, approved_by="Ada", note="", max_age=timedelta(hours=1),
            seen=SeenNow("0", "0", None, ()),
        )  # fmt: skip


@pytest.mark.long(but=1)
@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_catalogue_is_the_same_whatever_the_replica_identity_was(ground: Ground, identity: str) -> None:
    ground.fill(91).run("legacy", *IDENTITIES[identity])
    before = catalogue(ground)
    ground.streamed()
    assert catalogue(ground) != before
    steps: list[str] = []
    done = abandon(ground.plan, apply=True, on_step=steps.append)
    assert (list(done.done), done.notes) == (steps, ())
    assert_as_found(ground, before)
    ground.run("legacy", "TRUNCATE bookings")


@pytest.mark.long
def test_a_dry_run_changes_nothing_and_says_everything(ground: Ground) -> None:
    ground.fill(91).streamed()
    before, state = catalogue(ground), ground.base_state()
    planned = abandon(ground.plan, apply=False)
    assert not planned.applied
    assert_as_found(ground, before)
    assert ground.base_state() == state
    assert planned.done == abandon(ground.plan, apply=True).done


@pytest.mark.long
def test_nothing_of_it_is_signed_off_afterwards_and_it_can_begin_anew(ground: Ground) -> None:
    ground.fill(182).streamed()
    _signed(ground)
    abandon(ground.plan, apply=True)
    with ground.databases.session("base", "test") as base:
        assert "copied" in " ".join(read_sign_off(base, ground.spec, QUARTER).void)
        with pytest.raises(SignOffError, match="not under CDC"):
            record_sign_off(
                base, ground.spec, QUARTER, approved_by="Ada", note="", max_age=timedelta(hours=1),
                seen=SeenNow("0", "0", None, ()),
            )  # fmt: skip
    assert "abandoned: the change stream no longer follows" in (attempt_of(ground.record()).error or "")
    assert ground.record().validated is None
    ground.run(
        "legacy",
        "UPDATE bookings SET guests = guests + 1 WHERE id % 5 = 0",
        "DELETE FROM bookings WHERE id % 7 = 0",
    )
    ground.stream()
    ground.assert_same()
    _signed(ground)


def test_a_run_that_lost_its_lock_takes_nothing_from_the_stream_that_was_begun_after_it(ground: Ground) -> None:
    """The base forgot the lock, as when its server restarts, while the run was about to drop the legacy's slot."""
    ground.fill(91).streamed()

    def begin_anew(step: str) -> None:
        if "drop slot" not in step:
            return
        with ground.databases.session("base", "test") as base:
            base.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'migration_assets:abandon'"
            )
        ground.stream()

    with pytest.raises(psycopg.OperationalError):
        abandon(ground.plan, apply=True, on_step=begin_anew)
    ground.run("legacy", "UPDATE bookings SET guests = guests + 1 WHERE id % 5 = 0")
    ground.assert_same()


def test_a_table_of_locks_that_a_run_made_before_it_died_goes_too_unless_somebody_is_at_work(ground: Ground) -> None:
    ground.fill(91).open()
    before = catalogue(ground)
    with ground.databases.session("legacy", "a run that dies") as legacy:
        make_session_locks(legacy)
    made = catalogue(ground)
    gone = replace(ground, databases=Databases(ground.databases.legacy_url, NOWHERE))
    for look in (lambda: abandon(ground.plan, apply=False), lambda: clean(gone.plan, apply=False)):
        assert look().done == ("legacy: the table of locks and its schema go",)
    assert_as_found(ground, made)
    with ground.databases.session("legacy", "of another base") as other:
        make_session_locks(other)
        with stream_lock(other, "migration_assets_of_another", lock=StreamLock.START):
            at_work = f"backend {other.info.backend_pid}, which is at work"
            with pytest.raises(StreamError, match="nothing to abandon"):
                abandon(ground.plan, apply=True)
            assert clean(gone.plan, apply=True).notes == (f"schema migration stays on the legacy, for {at_work}",)
            assert_as_found(ground, made)
    assert abandon(ground.plan, apply=True).notes == ()
    assert_as_found(ground, before)
    # Nor does anybody make it anew who only finds that there is nothing to do.
    assert release_writes(CutoverPlan(ground.plan)) == "the legacy accepts writes"
    with pytest.raises(CutoverError, match="the legacy is in charge already"):
        roll_back(CutoverPlan(ground.plan), approved_by="Ada")
    assert_as_found(ground, before)
    with pytest.raises(StreamError, match="nothing to abandon"):
        abandon(ground.plan, apply=True)


@pytest.mark.long
def test_abandoned_twice_it_says_that_there_is_nothing(ground: Ground) -> None:
    ground.fill(91).streamed()
    abandon(ground.plan, apply=True)
    with pytest.raises(StreamError, match="nothing to abandon"):
        abandon(ground.plan, apply=True)


@pytest.mark.long
def test_a_second_table_of_the_same_legacy_keeps_what_it_needs(ground: Ground) -> None:
    ground.fill(91).run(
        "legacy",
        "CREATE TABLE other (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL)",
        "INSERT INTO other SELECT id, booked_at FROM bookings",
    )
    before = catalogue(ground)
    other = replace(ground, spec=TableSpec(QualifiedName("public", "other"), "booked_at"))
    ground.streamed()
    other.streamed()
    done = abandon(ground.plan, apply=True)
    assert "other" in done.notes[0]
    other.assert_same()
    with pytest.raises(Exception, match="would not reach the base"):
        ground.run("legacy", "TRUNCATE other")
    ground.run("legacy", "TRUNCATE bookings")
    abandon(other.plan, apply=True)
    assert_as_found_but_truncated(ground, before)


def assert_as_found_but_truncated(ground: Ground, before: dict[str, list[object]]) -> None:
    for kind, now in catalogue(ground).items():
        if kind != "relations":  # a TRUNCATE gives new files
            assert now == before[kind], kind


@pytest.mark.long
def test_two_bases_of_the_same_table_share_guard_and_identity(ground: Ground) -> None:
    ground.fill(91)
    before = catalogue(ground)
    ground.streamed()
    ground.run("legacy", "CREATE PUBLICATION migration_assets_0123456789ab FOR TABLE bookings")
    done = abandon(ground.plan, apply=True)
    assert "keeps its guard and REPLICA IDENTITY FULL" in done.notes[0]
    with pytest.raises(Exception, match="would not reach the base"):
        ground.run("legacy", "TRUNCATE bookings")
    ground.run("legacy", "DROP PUBLICATION migration_assets_0123456789ab")
    gone = replace(ground, databases=Databases(ground.databases.legacy_url, NOWHERE))
    clean(gone.plan, apply=True)
    assert_as_found(ground, before)


@pytest.mark.long
def test_a_lost_subscription_slot_or_publication_stops_nothing(ground: Ground) -> None:
    ground.fill(91)
    before = catalogue(ground)
    ground.streamed()
    name = sql.Identifier(ground.stream_record().publication)
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        for statement in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)"):
            base.execute(sql.SQL(statement).format(name))
        base.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))
        legacy.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active_pid IS NOT NULL"
            " AND database = current_database()"
        )
        legacy.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )
        legacy.execute(sql.SQL("DROP PUBLICATION {}").format(name))
    abandon(ground.plan, apply=True)
    assert_as_found(ground, before)


@pytest.mark.long
def test_a_schema_of_that_name_that_somebody_else_uses_stays(ground: Ground) -> None:
    ground.fill(91).run("legacy", "CREATE SCHEMA migration", "CREATE TABLE migration.theirs ()")
    before = catalogue(ground)
    ground.streamed()
    done = abandon(ground.plan, apply=True)
    assert done.notes == ("schema migration stays on the legacy, for other objects in schema migration",)
    assert_as_found(ground, before)


@pytest.mark.long
def test_an_identity_whose_index_is_gone_is_said(ground: Ground) -> None:
    ground.fill(91).run("legacy", *IDENTITIES["an index with an odd name"])
    ground.streamed()
    ground.run("legacy", 'DROP INDEX "Key of, bookings"')
    done = abandon(ground.plan, apply=True)
    assert "cannot be set" in done.notes[0]
    assert ground.one("legacy", "SELECT relreplident::text FROM pg_class WHERE relname = 'bookings'") == "d"


@pytest.mark.long
def test_a_base_that_is_gone_leaves_a_legacy_that_can_be_cleaned(ground: Ground) -> None:
    ground.fill(91)
    before = catalogue(ground)
    ground.streamed()
    with pytest.raises(StreamError, match="the base is there"):
        clean(ground.plan, apply=True)
    gone = replace(ground, databases=Databases(ground.databases.legacy_url, NOWHERE))
    name = sql.Identifier(ground.stream_record().subscription)
    with ground.databases.session("base", "test") as base:
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
    planned = clean(gone.plan, apply=False)
    assert "not known without the base" in planned.notes[0]
    with ground.databases.session("legacy", "a run") as left:
        # It was at work when the base went away, and would make anew what goes.
        with stream_lock(left, ground.stream_record().slot, lock=StreamLock.START):
            assert clean(gone.plan, apply=True).done == planned.done
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")
    assert_as_found(ground, before)
    with pytest.raises(StreamError, match="nothing to abandon"):
        clean(gone.plan, apply=True)


@pytest.mark.long
def test_a_slot_without_a_publication_is_only_dropped_by_name(ground: Ground) -> None:
    ground.fill(91)
    before = catalogue(ground)
    ground.streamed()
    gone = replace(ground, databases=Databases(ground.databases.legacy_url, NOWHERE))
    stream = ground.stream_record()
    name = sql.Identifier(stream.subscription)
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
        legacy.execute(sql.SQL("DROP PUBLICATION {}").format(name))
    with pytest.raises(StreamError, match="slots of ours, no publication"):
        clean(gone.plan, apply=True)
    clean(gone.plan, apply=True, name=stream.slot)
    assert_as_found(ground, before)


def test_a_cutover_stands_in_the_way_until_it_is_rolled_back(ground: Ground) -> None:
    ground.fill(91).streamed()
    ground.run(
        "base",
        "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by)"
        " VALUES ('public.bookings', 'cutover', false, 'Ada')",
    )
    with pytest.raises(StreamError, match=r"under way \(begun\)"):
        abandon(ground.plan, apply=False)
    # Also where it was noted as aborted after that, since the applications could not be told and the way back failed.
    for outcome in ("succeeded", "aborted"):
        ground.ask("base", "UPDATE migration.cutovers SET outcome = %s, opened_at = now() RETURNING 1", outcome)
        with pytest.raises(BaseInChargeError, match=r"the base is in charge since .*: the migration is done"):
            abandon(ground.plan, apply=False)
    ground.run(
        "base",
        "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, outcome, opened_at)"
        " VALUES ('public.bookings', 'rollback', false, 'Ada', 'succeeded', now())",
    )
    assert abandon(ground.plan, apply=False).done


@pytest.mark.long
def test_what_a_rehearsal_left_goes_too(ground: Ground) -> None:
    ground.fill(91)
    before = catalogue(ground)
    ground.streamed()
    plan, name = ground.plan, ground.stream_record().slot
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        names = reverse_names(StreamNames(name, name, name))
        prepare_reverse(base, legacy, CutoverPlan(plan), names)
        hold(legacy, plan, "legacy", 1, patience_seconds=10)
        hold(base, plan, "base", 1, patience_seconds=10)
        with pytest.raises(StreamError, match="holds the legacy's writes"):
            abandon(plan, apply=True)
        for session in (legacy, base):
            release(session, plan, 1)
    abandon(plan, apply=True)
    assert_as_found(ground, before)
    assert ground.ask("base", "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []
    assert ground.ask("base", "SELECT pubname FROM pg_publication") == []
    assert ground.ask("base", "SELECT tgname FROM pg_trigger WHERE tgname = 'migration_assets_hold'") == []
