"""After the deed applications stand outside, the data is where it was, and nothing goes back."""

import secrets
from collections.abc import Generator
from dataclasses import replace

import psycopg
import pytest

from migration_assets.cutover.legacy_repair import repair_after_base
from migration_assets.cutover.legacy_writing import repair_outside
from migration_assets.decommission import machine
from migration_assets.decommission.machine import call_off_decommission
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.states import CutoverError, DecommissionError, DecommissionState
from migration_assets.ledger.chain import read_chain, verify_chain
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import hashed_columns, take_fingerprint
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.cutover.ground import CutoverGround, past_the_hold
from migration_assets_tests.cutover.kills import settle_down
from migration_assets_tests.decommission.deed import Application, close_legacy, plan_of, record_of
from migration_assets_tests.ground import wait_for, week


@pytest.fixture
def app(ground: CutoverGround) -> Generator[Application]:
    made = Application(ground, f"app_{secrets.token_hex(4)}")
    made.grant(
        "GRANT SELECT, INSERT ON bookings TO {} WITH GRANT OPTION",
        "GRANT UPDATE (guests) ON bookings TO {}",
        "GRANT USAGE ON SEQUENCE bookings_id_seq TO {}",
        "GRANT SELECT ON bookings TO PUBLIC",
    )
    yield made
    made.drop()


def total(ground: CutoverGround) -> Fingerprint:
    with ground.databases.session("legacy", "test") as legacy:
        description = require_table(legacy, ground.spec.table, "legacy")
        return take_fingerprint(legacy, ground.spec.table, hashed_columns(description))


def as_fingerprint(one: dict[str, str]) -> Fingerprint:
    return Fingerprint(int(one["rows"]), int(one["sum_a"]), int(one["sum_b"]))


def assert_severed(ground: CutoverGround) -> None:
    here = "SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
    assert ground.one("legacy", here + " WHERE datname = current_database()") == 0
    assert ground.one("base", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    assert ground.one("base", "SELECT count(*) FROM pg_publication") == 0


def test_of_the_table_alone(ground: CutoverGround, app: Application) -> None:
    ground.insert("base")
    ground.run("legacy", "CREATE TABLE other (id int PRIMARY KEY)")
    app.grant("GRANT SELECT ON other TO {}")
    assert app.ask("SELECT count(*) FROM bookings")
    record = close_legacy(ground)
    assert record.state is DecommissionState.DONE
    assert (record.approved_by, record.note, record.scope, record.run_id) == ("Ada", "all well", "table", "test")
    for query in ("SELECT 1 FROM bookings", "INSERT INTO bookings (booked_at) VALUES (now()) RETURNING 1",
                  "UPDATE bookings SET guests = 2 RETURNING guests", "SELECT nextval('bookings_id_seq')"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.ask(query)
    assert app.ask("SELECT count(*) FROM other") == [(0,)], "other tables are not ours to close"
    # The data is there, the last row of the base's too, and it is what the ledger says.
    assert ground.one("legacy", "SELECT count(*) FROM bookings") == 911
    assert as_fingerprint(record.final["total"]) == total(ground)
    assert record.final["outside"]["rows"] == "0"
    weeks = [as_fingerprint(one) for one in record.final["weeks"].values()]
    assert sum(weeks[1:], weeks[0]) + as_fingerprint(record.final["outside"]) == total(ground)
    assert len(weeks) == 13
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        ground.insert("legacy")
    assert_severed(ground)
    ground.insert("base")
    for statement in record.former["reopen"]:
        ground.run("legacy", statement)
    assert app.ask("SELECT count(*) FROM bookings") == [(911,)], "a DBA can open it again"
    granted = "SELECT has_column_privilege(%s, 'bookings', 'guests', 'UPDATE')"
    assert ground.one("legacy", granted, app.name) is True


def test_of_the_whole_database(ground: CutoverGround, app: Application) -> None:
    with pytest.raises(DecommissionError, match="1 other sessions are connected"), psycopg.connect(app.url):
        close_legacy(ground, "database")
    assert record_of(ground) is None
    record = close_legacy(ground, "database")
    assert record.state is DecommissionState.DONE
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        app.ask("SELECT 1")
    assert ground.one("legacy", "SELECT count(*) FROM bookings") == 910
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        ground.run("legacy", "CREATE TABLE more (id int)")
    assert_severed(ground)
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy:
        for statement in record.former["reopen"]:
            legacy.execute(statement)
    assert app.ask("SELECT count(*) FROM bookings") == [(910,)]


@pytest.mark.long
def test_there_is_no_way_back_and_the_chain_says_so(ground: CutoverGround) -> None:
    record = close_legacy(ground)
    for again in (ground.back, ground.cut, lambda: ground.cut(rehearse=True)):
        with pytest.raises(CutoverError, match="decommissioned, approved by Ada"):
            again()
    with pytest.raises(DecommissionError, match="no way back"):
        call_off_decommission(plan_of(ground))
    assert close_legacy(ground, "database", window=99) == record, "what is done is done"
    with ground.databases.session("base", "test") as base:
        kinds = [one.kind for one in read_chain(base, ground.spec.relation)]
        assert kinds[-1] == "decommission"
        assert verify_chain(base, ground.spec.relation)[1] == ()
        base.execute('UPDATE migration.decommissions SET final = final || \'{"total": {"rows": "1"}}\'')
        found = verify_chain(base, ground.spec.relation)[1]
    assert any("was changed in the ledger: final" in str(one) for one in found), found


@pytest.mark.long
def test_a_failure_before_the_closing_leaves_the_reverse_stream_running(ground: CutoverGround) -> None:
    before = len(ground.records())
    # The last fingerprints cannot be taken.
    ground.run("legacy", "ALTER TABLE bookings RENAME COLUMN booked_at TO at")
    with pytest.raises(DecommissionError, match=r"stopped before anything was closed: .*no column 'booked_at'"):
        close_legacy(ground)
    ground.run("legacy", "ALTER TABLE bookings RENAME COLUMN at TO booked_at")
    assert record_of(ground) is None
    ground.insert("base")
    settle_down(ground)
    ground.equal()
    ground.back()
    assert len(ground.records()) == before + 1
    ground.insert("legacy")


def test_every_row_of_the_legacy_is_in_the_base_or_in_an_equal_archive(ground: CutoverGround) -> None:
    past_the_hold(ground, "INSERT INTO bookings (id, booked_at) VALUES (9001, '2024-05-01'), (9002, '1999-01-01')")
    said = r"W05: the legacy has 1 row more than the base; 1 row of the legacy at times that no week has"
    with pytest.raises(DecommissionError, match=said) as caught:
        close_legacy(ground)
    assert "`migration-assets repair-legacy FY25-Q2 W05`" in caught.value.next_step
    assert record_of(ground) is None
    ground.insert("base")
    settle_down(ground)
    repair_after_base(ground.cutover_plan(), [week(5)], dry_run=False)
    repair_outside(ground.cutover_plan(), dry_run=False)
    record = close_legacy(ground)
    assert record.final["accounted"] is True
    assert record.final["total"]["rows"] == "911"


def test_a_legacy_that_is_gone_half_way_keeps_no_wal_on_the_base(ground: CutoverGround) -> None:
    done = close_legacy(ground)
    ground.run("base", "UPDATE migration.decommissions SET state = 'severed', finished_at = NULL")
    names = ground.one("base", "SELECT slot || '_back' FROM migration.streams")
    ground.ask("base", "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", names)
    gone = replace(ground, databases=Databases("postgresql://x@127.0.0.1:1/nowhere", ground.databases.base_url))
    with pytest.raises(psycopg.OperationalError):
        close_legacy(gone)
    assert ground.one("base", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    assert close_legacy(ground).state is done.state


@pytest.mark.long
def test_a_lost_reverse_stream_is_an_obstacle_that_can_be_accepted(ground: CutoverGround) -> None:
    ground.run("legacy", "DO $$ BEGIN EXECUTE (SELECT format('ALTER SUBSCRIPTION %I DISABLE', subname)"
               " FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database"
               " WHERE datname = current_database())); END $$")  # fmt: skip
    idle = "SELECT 1 FROM pg_replication_slots WHERE active AND database = current_database()"
    wait_for(lambda: not ground.ask("base", idle), "the slot is free")
    ground.run("base", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
               " WHERE database = current_database()")  # fmt: skip
    with pytest.raises(DecommissionError, match=r"reverse stream is not whole \(its slot is gone"):
        close_legacy(ground)
    record = close_legacy(ground, stale=True)
    assert record.state is DecommissionState.DONE
    assert record.final["marker"] is None


def test_a_run_that_has_lost_its_lock_leaves_the_stream_as_the_next_one_has_it(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next one knows of the legacy's last state holds only as long as nothing comes there any more."""
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ 'decommis'"
    stands = (
        "SELECT NOT subenabled FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid"
        " WHERE datname = current_database()"
    )

    def unclosed(*_: object) -> None:
        raise TimeoutError

    def meanwhile(*_: object, **__: object) -> None:
        monkeypatch.undo()
        ground.end_who_cuts_over()
        with monkeypatch.context() as patch:
            patch.setattr(machine, "note_closed", unclosed)
            with pytest.raises(TimeoutError):
                close_legacy(ground)
        assert ground.one("legacy", left) == 0, "nothing of this run is left there"
        raise KeyError

    monkeypatch.setattr(machine, "take_final", meanwhile)
    with pytest.raises((KeyError, psycopg.OperationalError)):
        close_legacy(ground)
    record = record_of(ground)
    assert record is not None
    assert record.state is DecommissionState.FINGERPRINTED
    assert ground.one("legacy", stands)
    assert close_legacy(ground).state is DecommissionState.DONE
    assert_severed(ground)
