"""All that writers do on the legacy arrives on the base, whatever the table looks like, and nothing else does."""

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.confirmation import DeletionLimit
from migration_assets.domain.errors import DeletionError, StreamError, UnavailableError
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.states import SideName
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.retries import retry_transient
from migration_assets.postgres.sessions import Timeouts, connect
from migration_assets.stream.joining import join_stream
from migration_assets.stream.legacy_side import row_filter
from migration_assets.stream.slots import (
    create_slot,
    drop_slot,
    exported_slot,
    has_failover_slots,
    require_session,
)
from migration_assets_tests.ground import BOOKINGS, CALENDAR, QUARTER, SPEC, Ground, wait_for, week

# Out of line on both sides: 32 kB that do not compress.
_LARGE: LiteralString = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)"
NEXT_QUARTER: LiteralString = "2024-08-01 12:00Z"


def test_changes_of_every_kind_arrive_and_rows_elsewhere_stay_where_they_are(ground: Ground) -> None:
    ground.fill()
    ground.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at, note) SELECT n, '2024-08-01Z', n FROM generate_series(5001, 5020) n",
    )
    ground.streamed()
    assert ground.one("base", "SELECT count(*) FROM bookings") == 910
    ground.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at, price) VALUES (6001, '2024-04-01Z', 1.50), (6002,"
        " '2024-06-30 23:59:59.999999Z', 1.5),"
        " (6003, '2024-07-01Z', 0), (6004, '2024-03-31 23:59:59.999999Z', 0)",
        "UPDATE bookings SET price = 1.500, note = NULL WHERE id IN (6001, 100, 101)",
        "DELETE FROM bookings WHERE id BETWEEN 200 AND 220",
        "UPDATE bookings SET booked_at = booked_at + interval '21 days' WHERE id BETWEEN 300 AND 400",  # some leave
        "UPDATE bookings SET booked_at = '2024-05-05Z', guests = 9 WHERE id BETWEEN 5001 AND 5010",  # these come in
        "UPDATE bookings SET id = id + 100000 WHERE id BETWEEN 500 AND 520",
        "UPDATE bookings SET note = note || 'outside' WHERE id > 5010",
        "DELETE FROM bookings WHERE id IN (5011, 6003)",
        "BEGIN; UPDATE bookings SET guests = 77; ROLLBACK",
        "BEGIN; SAVEPOINT a; DELETE FROM bookings WHERE id = 600; ROLLBACK TO a;"
        " UPDATE bookings SET booked_at = '2024-09-09Z' WHERE id = 601;"
        " UPDATE bookings SET booked_at = '2024-04-09Z' WHERE id = 601; COMMIT",
    )
    ground.assert_same()
    assert ground.one("base", "SELECT count(*) FROM bookings WHERE id BETWEEN 5001 AND 5020") == 10


@pytest.mark.long
def test_values_stored_out_of_line_survive_updates_and_moves_that_do_not_touch_them(ground: Ground) -> None:
    ground.run("legacy", BOOKINGS, "ALTER TABLE bookings ALTER COLUMN note SET STORAGE EXTERNAL")
    ground.run(
        "legacy", f"INSERT INTO bookings SELECT n, '2024-04-03Z', n, n, {_LARGE} || n FROM generate_series(1, 5) n"
    )
    ground.run(
        "legacy", f"INSERT INTO bookings SELECT n, '2024-08-03Z', n, n, {_LARGE} || n FROM generate_series(6, 9) n"
    )
    ground.streamed()
    ground.run(
        "legacy",
        "UPDATE bookings SET guests = 50 WHERE id = 1",
        "UPDATE bookings SET booked_at = '2024-05-08Z' WHERE id = 2",
        "UPDATE bookings SET booked_at = '2024-08-08Z' WHERE id = 3",
        "UPDATE bookings SET booked_at = '2024-04-09Z' WHERE id IN (3, 6, 7)",
        "UPDATE bookings SET note = note || '!' WHERE id = 4",
    )
    ground.assert_same()
    digests = "SELECT id, length(note), md5(note) FROM bookings WHERE booked_at < '2024-07-01Z' ORDER BY id"
    assert ground.ask("base", digests) == ground.ask("legacy", digests)
    assert {length for _, length, _ in ground.ask("base", digests)} == {32001, 32002}


@pytest.mark.long
def test_a_large_transaction_that_is_streamed_before_its_commit_arrives_whole(ground: Ground) -> None:
    ground.run(
        "legacy",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET logical_decoding_work_mem = ''64kB''', current_database());"
        " END $$",
    )
    ground.fill(91).streamed()
    ground.run(
        "legacy",
        "BEGIN; INSERT INTO bookings (id, booked_at, note) SELECT n, '2024-04-15Z', repeat(md5(n::text), 80)"
        " FROM generate_series(1001, 4000) n; UPDATE bookings SET guests = 1 WHERE id > 3000; COMMIT",
    )
    assert ground.validate(3).base.rows == 3_007
    ground.assert_same()
    streamed = "SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = %s"
    wait_for(lambda: ground.one("legacy", streamed, ground.stream_record().slot) >= 1, "it was streamed")


@pytest.mark.long
def test_copies_of_different_moments_are_made_true_when_the_stream_begins(ground: Ground) -> None:
    ground.fill().open()
    for number in range(1, 14):
        ground.copy(number)
        # Rows flee from weeks that are still to be copied into those that were, and the other way round.
        ground.ask("legacy", "UPDATE bookings SET booked_at = '2024-04-02Z', guests = -1 WHERE id IN"
                   " (SELECT id FROM bookings WHERE booked_at >= '2024-06-01Z' LIMIT 3) RETURNING 1")  # fmt: skip
        ground.ask(
            "legacy",
            "UPDATE bookings SET booked_at = '2024-06-29Z', guests = -2 WHERE id = %s RETURNING 1",
            number * 91 + 1,
        )
        ground.ask("legacy", "DELETE FROM bookings WHERE id = %s RETURNING 1", number * 5 + 2)
        ground.ask("legacy", "UPDATE bookings SET price = price * 1.00 WHERE id = %s RETURNING 1", number * 7 - 3)
    joined = ground.stream()
    assert (joined.how, joined.marker, joined.paused_ms) == ("activated", None, 0.0)
    differences = [done.differences for done in joined.weeks]
    assert sum(d.missing for d in differences) > 10
    assert sum(d.extra for d in differences) > 10
    assert sum(d.changed for d in differences) > 1
    assert all(done.legacy == done.base for done in joined.weeks)
    ground.assert_same()
    assert [ground.record(number).state for number in (1, 13)] == ["streaming", "streaming"]
    assert ground.attempts(1) == [("copy", "succeeded"), ("join", "succeeded")]
    purposes = "SELECT purpose, equal, marker FROM migration.validations WHERE week = 'W01'"
    assert ground.ask("base", purposes) == [("join", True, None)]


@pytest.mark.long
def test_starting_again_what_runs_does_nothing(ground: Ground) -> None:
    ground.fill(91).streamed()
    before = ground.base_state(), ground.ask("legacy", "SELECT * FROM pg_publication_rel"), ground.stream_record()
    again = ground.stream()
    assert (again.how, again.weeks, again.lsn) == ("already under CDC", (), before[2].exact_since_lsn)
    after = ground.base_state(), ground.ask("legacy", "SELECT * FROM pg_publication_rel"), ground.stream_record()
    assert after == before


@pytest.mark.long
def test_a_start_that_stops_keeps_no_wal_and_one_that_cannot_succeed_stops_before_the_true_up(ground: Ground) -> None:
    ground.fill(91).copy_all()
    slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    ground.run("legacy", "UPDATE bookings SET guests = 9")
    away = replace(ground.plan, legacy_url_for_base="postgresql://somebody@127.0.0.1:1/elsewhere")
    with pytest.raises(UnavailableError, match="could not connect to the publisher") as caught:
        retry_transient(lambda: join_stream(away, QUARTER), what="its start", attempts=1, log=logging.getLogger())
    assert ground.one("legacy", slots) == 0
    assert [action for action, _ in ground.attempts()].count("join") == 0
    assert "MIGRATION_LEGACY_URL_FOR_BASE" in caught.value.next_step
    ground.run(
        "base", "INSERT INTO bookings (id, booked_at) SELECT 1000 + n, '2024-04-02' FROM generate_series(1, 9) n"
    )
    few = replace(ground.stream_limits, deletions=DeletionLimit(percent=1.0, rows=1))
    with pytest.raises(DeletionError, match="9 of the week's"):
        join_stream(replace(ground.plan, limits=few), QUARTER)
    assert ground.one("legacy", slots) == 0
    ground.stream()
    ground.assert_same()


def test_a_quarter_with_absent_weeks_is_refused_and_they_are_named(ground: Ground) -> None:
    ground.fill(91).open()
    for number in (1, 2, 4):
        ground.copy(number)
    no_row_without_a_copy = replace(ground, stream_limits=replace(ground.stream_limits, join_rows=0))
    with pytest.raises(StreamError, match=r"not copied yet: W03 \(about \d+ rows\), W05 .*, W13 ") as caught:
        no_row_without_a_copy.stream()
    assert "migrated_slice" in caught.value.next_step
    with pytest.raises(StreamError, match="not open"):
        ground.stream(QUARTER.next)
    assert ground.ask("base", "SELECT 1 FROM migration.streams") == []
    assert (
        ground.ask(
            "legacy", "SELECT 1 FROM pg_publication UNION ALL SELECT 1 FROM pg_namespace WHERE nspname = 'migration'"
        )
        == []
    )


_ORDER = """
CREATE TABLE public.ddl_log (id serial, tag text);
CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN
        -- Not the empty publication that shows whom the base's server reaches.
        INSERT INTO public.ddl_log (tag) SELECT tg_tag WHERE NOT EXISTS (
            SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'migration_assets_way%');
    END $$;
CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION public.log_ddl();
"""


def test_the_identity_is_full_before_the_publication_and_the_former_one_is_remembered(ground: Ground) -> None:
    ground.fill(91)
    ground.run("legacy", "CREATE UNIQUE INDEX by_time ON bookings (id, booked_at)",
               "ALTER TABLE bookings REPLICA IDENTITY USING INDEX by_time", _ORDER)  # fmt: skip
    impatient = replace(ground, stream_limits=replace(ground.stream_limits, stream_patience_seconds=0.3))
    with psycopg.connect(ground.databases.legacy_url) as writer:
        writer.execute("SELECT pg_current_xact_id()")
        with pytest.raises(StreamError, match=f"could not begin.*backend {writer.info.backend_pid} "):
            impatient.streamed()
    # The first try got as far as the publication; the second one must not take our own identity for the former one.
    assert ground.one("legacy", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    ground.stream()
    assert ground.stream_record().former_identity == "i:public.by_time"
    assert ground.one("legacy", "SELECT relreplident FROM pg_class WHERE oid = 'bookings'::regclass") == "f"
    tags = [tag for (tag,) in ground.ask("legacy", "SELECT tag FROM ddl_log ORDER BY id")]
    assert tags.index("ALTER TABLE") < tags.index("CREATE PUBLICATION")


@pytest.mark.long(but=1)
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_truncate_is_refused_with_advice_while_delete_goes_through(ground: Ground, role: str) -> None:
    ground.fill(91).streamed()
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as person:
        person.execute("SELECT set_config('session_replication_role', %s, false)", [role])
        with pytest.raises(
            psycopg.errors.RaiseException, match="TRUNCATE of bookings would not reach the base"
        ) as caught:
            person.execute("TRUNCATE bookings CASCADE")
    assert "DELETE reaches the base" in str(caught.value.diag.message_hint)
    publishes = "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication"
    assert ground.ask("legacy", publishes) == [(True, True, True, False)]
    ground.run("legacy", "DELETE FROM bookings")
    ground.assert_same()
    assert ground.one("base", "SELECT count(*) FROM bookings") == 0


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("kind", "zone"),
    [("timestamptz", "America/New_York"), ("timestamp", "UTC"), ("date", "UTC")],
)
def test_rows_on_the_edges_of_the_weeks_arrive_for_every_kind_of_control_column(
    ground: Ground, kind: str, zone: str
) -> None:
    ground = replace(ground, calendar=FiscalCalendar(time_zone=zone))
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy:
        legacy.execute(f"CREATE TABLE bookings (id int PRIMARY KEY, booked_at {kind} NOT NULL, note text)".encode())
    fill: LiteralString = (
        "INSERT INTO bookings SELECT row_number() OVER (), t FROM generate_series('2024-03-30'::timestamp,"
        " '2024-07-03', '6 hours') g, unnest(ARRAY[g, g - interval '1 second']) t"
    )
    ground.run("legacy", fill)
    ground.streamed()
    ground.run(
        "legacy",
        fill.replace("SELECT row", "SELECT 10000 + row"),
        "UPDATE bookings SET booked_at = booked_at + interval '7 days', note = 'moved' WHERE id % 3 = 0",
        "UPDATE bookings SET booked_at = booked_at - interval '14 days', note = 'back' WHERE id % 5 = 0",
    )
    ground.assert_same()
    assert all(ground.validate(number).base.rows > 20 for number in (1, 13))


def test_adjoining_weeks_are_published_as_one_range_and_others_are_not_joined(ground: Ground) -> None:
    ground.run("legacy", BOOKINGS)
    with ground.databases.session("legacy", "test") as legacy:
        description = require_table(legacy, SPEC.table, "legacy")

        def ranges(*weeks: int) -> list[str]:
            return row_filter(map(week, weeks), description, SPEC, CALENDAR).as_string(legacy).split(" OR ")

        assert ranges() == ["false"]
        assert len(ranges(*range(1, 14))) == 1
        assert ["04-01" in ranges(1)[0], "04-08" in ranges(1)[0]] == [True, True]
        assert len(ranges(5, 1, 2, 3)) == 2
        assert "2024-04-22" in ranges(5, 1, 2, 3)[0]
        assert len(ranges(1, 3, 5)) == 3
    ground.streamed()
    assert ground.stream_record().row_filter == (
        "((booked_at >= '2024-04-01 00:00:00+00'::timestamp with time zone)"
        " AND (booked_at < '2024-07-01 00:00:00+00'::timestamp with time zone))"
    )


@pytest.mark.long
def test_a_table_whose_bytes_mean_something_else_in_the_base_is_streamed_as_text(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE TYPE public.mood AS ENUM ('bad', 'it''s, \"fine\"')",
        "CREATE TABLE bookings (id int PRIMARY KEY, booked_at timestamptz NOT NULL, moods mood[], doc"
        " json, part regclass)",
        "INSERT INTO bookings SELECT n, '2024-04-02Z', enum_range(NULL::mood), '{\"b\": 1,  \"a\":2}', 'pg_class'"
        " FROM generate_series(1, 30) n",
    )
    ground.run("base", "CREATE TYPE public.shifts_object_ids AS ENUM ('x')")
    ground.streamed()
    ground.run(
        "legacy",
        'UPDATE bookings SET doc = \'{"b": 1, "a":2}\', moods = moods[1:1] WHERE id < 9',
        "DELETE FROM bookings WHERE id > 20",
        "INSERT INTO bookings VALUES (99, '2024-05-05Z', '{}', NULL, 'pg_type')",
    )
    ground.assert_same()
    assert (
        ground.one(
            "base", "SELECT subbinary FROM pg_subscription WHERE subname = %s", ground.stream_record().subscription
        )
        is False
    )
    assert ground.validate(1).base.rows == 20


def test_a_table_with_everything_that_the_years_leave_behind_is_streamed_validated_and_repaired(ground: Ground) -> None:
    ground = replace(ground, spec=TableSpec(QualifiedName("Old Stuff", 'Book "ings" 100%'), "On Day"))
    table: LiteralString = '"Old Stuff"."Book ""ings"" 100%"'
    ground.run(
        "base",
        'CREATE SCHEMA "types %s"',
        "CREATE FUNCTION \"types %s\".short(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT length($1) < 200'",
        "CREATE FUNCTION \"types %s\".fallback() RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''fall{}back'''",
    )
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy:
        legacy.execute(Path(__file__).parents[1].joinpath("nasty_legacy.sql").read_text().encode())
    ground.run("legacy", f"ALTER TABLE {table} DROP CONSTRAINT never_checked")
    ground.streamed()
    ground.run(
        "legacy",
        f"UPDATE {table} SET price = price + 1, \"Status\" = 'back\\slash' WHERE part = 1",
        f'UPDATE {table} SET "On Day" = "On Day" + 20 WHERE part = 2',
        f'UPDATE {table} SET "Ref %" = "Ref %" || E\'\\n%s "q" , \\\\\' WHERE part = 3',
        f"DELETE FROM {table} WHERE part = 4",
    )
    ground.assert_same()
    assert ground.stream_record().relation == '"Old Stuff"."Book ""ings"" 100%"'
    ground.run("base", f"UPDATE {table} SET word = 'by hand' WHERE \"On Day\" < '2024-04-08' AND part IN (0, 3)",
               f"DELETE FROM {table} WHERE \"On Day\" < '2024-04-08' AND part = 1")  # fmt: skip
    damaged = ground.contents("base")
    repaired = ground.repair()
    assert min(repaired.differences.missing, repaired.differences.changed) > 5
    ground.assert_same()
    ground.undo(repaired.repair_id)
    assert ground.contents("base") == damaged


def test_a_slot_is_made_to_outlive_a_failover_where_its_server_can(ground: Ground) -> None:
    """In both ways in which slots are made; before PostgreSQL 17 there is no such thing."""
    for side in ("legacy", "base"):
        with ground.databases.session(side, "test") as server:
            create_slot(server, f"{side}_alone")
            with exported_slot(ground.databases.url(side), server, f"{side}_exported", patience_seconds=20):
                pass
            made = server.execute("SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE"
                                  " database = current_database() ORDER BY slot_name").fetchall()  # fmt: skip
            assert made == [("true" if has_failover_slots(server) else None,)] * 2
            for name in ("alone", "exported"):
                drop_slot(server, f"{side}_{name}")
    with ground.databases.session("base", "test") as base:
        assert has_failover_slots(base), "one of the two servers can"


@pytest.mark.parametrize("side", ["legacy", "base"])
def test_a_run_whose_session_was_ended_leaves_no_slot_and_takes_nobodys_away(ground: Ground, side: SideName) -> None:
    """It stood still before it made its slot; meanwhile somebody else ended it and was done, say with an abandon."""
    url, slots = ground.databases.url(side), "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'lost'"
    ended, replication = connect(url, "stood still", Timeouts()), connect(url, "slot", Timeouts(), replication=True)
    with closing(ended), closing(replication), ground.databases.session(side, "test") as server:
        with exported_slot(url, ended, "lost", patience_seconds=20) as made:
            server.execute("SELECT pg_terminate_backend(%s, 5000)", [ended.info.backend_pid])
        drop_slot(server, "lost")
        create_slot(server, "lost")  # by whoever came after
        with pytest.raises(psycopg.OperationalError):
            require_session(ended, replication, "lost", made)
        assert ground.one(side, slots) == 1
        drop_slot(server, "lost")
        with pytest.raises(psycopg.OperationalError), exported_slot(url, ended, "lost", patience_seconds=20):
            pass
        assert ground.one(side, slots) == 0
