"""What people do to the stream's parts behind our back is told in plain words, and a rebuild mends it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migration_assets.domain.errors import DeletionError, StreamError
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.stream import StreamStatus
from migration_assets.postgres.sessions import Side
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import run_preflight
from migration_assets.stream.holding import continue_stream, hold_stream
from migration_assets.stream.joining import join_stream
from migration_assets_tests.ground import BOOKINGS, QUARTER, Ground, wait_for, week


def on(ground: Ground, side: Side, *statements: str) -> None:
    """With the name of the stream's parts in place of {}."""
    name = sql.Identifier(ground.stream_record().publication)
    with psycopg.connect(ground.databases.url(side), autocommit=True) as connection:
        for statement in statements:
            connection.execute(sql.SQL(statement).format(name))  # pyright: ignore[reportArgumentType]


def disable_subscription(ground: Ground) -> None:
    on(ground, "base", "ALTER SUBSCRIPTION {} DISABLE")


def drop_subscription(ground: Ground) -> None:
    disable_subscription(ground)
    on(ground, "base", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)", "DROP SUBSCRIPTION {}")


def drop_subscription_and_slot(ground: Ground) -> None:
    on(ground, "base", "DROP SUBSCRIPTION {}")


def drop_slot(ground: Ground) -> None:
    disable_subscription(ground)
    slot = ground.stream_record().slot
    idle = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s"
    wait_for(lambda: ground.one("legacy", idle, slot), "the walsender ends")
    ground.ask("legacy", "SELECT pg_drop_replication_slot(%s)", slot)
    on(ground, "base", "ALTER SUBSCRIPTION {} ENABLE")


def narrow_filter(ground: Ground) -> None:
    on(ground, "legacy", "ALTER PUBLICATION {} SET TABLE bookings WHERE (booked_at < '2024-05-01Z'), migration.markers")


def publish_inserts_alone(ground: Ground) -> None:
    on(ground, "legacy", "ALTER PUBLICATION {} SET (publish = 'insert')")


def drop_publication(ground: Ground) -> None:
    on(ground, "legacy", "DROP PUBLICATION {}")


def drop_guard_and_truncate(ground: Ground) -> None:
    ground.run("legacy", "DROP TRIGGER migration_assets_no_truncate ON bookings", "TRUNCATE bookings")


def write_into_the_base(ground: Ground) -> None:
    ground.run("base", "UPDATE bookings SET guests = 55 WHERE id % 3 = 0", "DELETE FROM bookings WHERE id % 7 = 0")


@pytest.mark.long
@pytest.mark.parametrize(
    "deed",
    [drop_subscription, drop_subscription_and_slot, drop_slot, narrow_filter, publish_inserts_alone, drop_publication,
     drop_guard_and_truncate, write_into_the_base],
)  # fmt: skip
def test_whatever_was_done_by_hand_a_rebuild_mends_it(ground: Ground, deed: Callable[[Ground], None]) -> None:
    ground.fill(364).streamed()
    deed(ground)
    ground.run(
        "legacy",
        "UPDATE bookings SET guests = 44 WHERE id % 5 = 0",
        "DELETE FROM bookings WHERE id % 11 = 0",
        "INSERT INTO bookings (id, booked_at) VALUES (9001, '2024-06-06Z')",
    )
    if deed is drop_guard_and_truncate:
        # Whole weeks would go: a person says so first.
        with pytest.raises(DeletionError, match="would be deleted from the base"):
            ground.stream(rebuild=True)
    confirmed = {week(number): 28 for number in range(1, 14)} if deed is drop_guard_and_truncate else {}
    rebuilt = join_stream(replace(ground.plan, confirmed_deletes=confirmed), QUARTER, rebuild=True)
    assert (rebuilt.how, rebuilt.marker, len(rebuilt.weeks)) == ("rebuilt", None, 13)
    assert sum(done.differences.rows for done in rebuilt.weeks) > 30
    ground.run("legacy", "UPDATE bookings SET guests = 33 WHERE id % 2 = 0")
    ground.assert_same()
    with pytest.raises(psycopg.errors.RaiseException, match="TRUNCATE"):
        ground.run("legacy", "TRUNCATE bookings")
    assert ground.reconcile().equal
    slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    assert ground.one("legacy", slots) == 1


@pytest.mark.long
def test_a_rebuild_while_rows_are_on_their_way_loses_none_and_repeats_none(ground: Ground) -> None:
    ground.fill(91).streamed()
    ground.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at) SELECT n, '2024-06-06Z' FROM generate_series(1001, 3000) n",
        "UPDATE bookings SET guests = id WHERE id % 3 = 0",
    )
    ground.stream(rebuild=True)
    ground.run("legacy", "DELETE FROM bookings WHERE id % 10 = 0")
    ground.assert_same()


@pytest.mark.long
@pytest.mark.parametrize(
    ("deed", "said", "advice"),
    [(disable_subscription, "disabled by hand", "stream resume"), (drop_subscription, "dropped by hand", "rebuild")],
)
def test_a_stream_that_somebody_stopped_says_what_to_do(
    ground: Ground, deed: Callable[[Ground], None], said: str, advice: str
) -> None:
    ground.fill(91).streamed()
    deed(ground)
    for step in (ground.validate, ground.repair, ground.copy, ground.reconcile):
        with pytest.raises(StreamError, match=said) as caught:
            step()
        assert advice in caught.value.next_step
    assert ground.stream_record().status == "live"
    assert ground.attempts(1)[-1] == ("repair", "failed")


@pytest.mark.long
def test_a_disabled_subscription_is_resumed_where_it_stood(ground: Ground) -> None:
    ground.fill(91).streamed()
    disable_subscription(ground)
    ground.run("legacy", "UPDATE bookings SET guests = 44")
    assert "disabled by hand" in continue_stream(ground.plan)
    ground.assert_same()
    assert continue_stream(ground.plan) == "the stream runs already"


@pytest.mark.long
def test_a_person_s_hold_is_ended_by_a_person_alone(ground: Ground) -> None:
    ground.fill(91).streamed()
    assert "is held" in hold_stream(ground.plan, "lunch")
    assert "held already (lunch)" in hold_stream(ground.plan, "tea")
    ground.run("legacy", "UPDATE bookings SET guests = 44")
    state = ground.base_state()
    steps = (
        ground.validate,
        ground.repair,
        ground.copy,
        ground.reconcile,
        ground.stream,
        lambda: ground.stream(rebuild=True),
    )
    for step in steps:
        with pytest.raises(StreamError, match=r"a person holds the stream \(lunch\)") as caught:
            step()
        assert "stream resume" in caught.value.next_step
    assert ground.base_state() == state
    assert "it was held: lunch" in continue_stream(ground.plan)
    ground.assert_same()


@pytest.mark.long
def test_two_tables_of_one_database_have_streams_that_do_not_meet(ground: Ground) -> None:
    other = replace(ground, spec=TableSpec(QualifiedName("public", "Bookings"), "booked_at"))
    ground.fill(91)
    twin = BOOKINGS.replace("public.bookings", 'public."Bookings"').replace("bookings_booked_at_idx", "other_idx")
    ground.run("legacy", twin, 'INSERT INTO "Bookings" SELECT id + 5000, booked_at, guests FROM bookings')
    ground.streamed()
    other.streamed()
    assert ground.stream_record().slot != other.stream_record().slot
    ground.run("legacy", "UPDATE bookings SET guests = 1 WHERE id < 50", 'DELETE FROM "Bookings" WHERE id < 5050')
    markers = [one.validate(number).cut.marker for number in (1, 2, 13) for one in (ground, other)]
    assert len(set(markers)) == 6
    for one in (ground, other):
        one.assert_same()
    of_each = (
        "SELECT relation, array_agg(id ORDER BY id) FROM migration.markers GROUP BY relation ORDER BY relation DESC"
    )
    (_, ours), (_, theirs) = ground.ask("base", of_each)
    assert not set(ours) & set(theirs)
    # One at rest, the other one runs.
    hold_stream(other.plan, "theirs alone")
    ground.validate(3)
    ground.repair(3)
    with pytest.raises(StreamError, match="theirs alone"):
        other.validate(3)
    assert other.stream_record().status == "held"
    assert ground.stream_record().status == "live"


def test_the_password_is_in_the_subscription_and_nowhere_else(ground: Ground, servers: EmbeddedServers) -> None:
    passfile = parse_qs(urlsplit(ground.databases.legacy_url).query)["passfile"][0]
    password = Path(passfile).read_text().strip().rsplit(":", 1)[1]
    logs = [status.data_folder.parent / "server.log" for status in servers.status()]
    ground.fill(91).open()
    for number in range(1, 14):
        ground.copy(number)
    database = conninfo_to_dict(ground.databases.base_url)["dbname"]
    for setting in ("log_statement = 'all'", "log_min_duration_statement = 0", "log_parameter_max_length = -1",
                    "log_min_error_statement = 'debug5'", "log_parameter_max_length_on_error = -1"):  # fmt: skip
        alter = sql.SQL("ALTER DATABASE {} SET ").format(sql.Identifier(str(database))) + sql.SQL(setting)
        with psycopg.connect(ground.databases.base_url) as base:
            base.execute(alter)
    # Preflight tries the servers' way to each other, and gets a warning that would have the statement in the log.
    plan = PreflightPlan(as_of=datetime(2024, 6, 24, tzinfo=UTC))
    found = run_preflight(ground.databases, ground.spec, ground.calendar, plan=plan)
    assert "was seen there" in next(one.evidence for one in found if one.code == "way_to_legacy")
    # First a CREATE SUBSCRIPTION that fails: the server logs what failed.
    ground.run("base", "CREATE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS"
               " $$ BEGIN RAISE EXCEPTION 'no subscriptions on a Sunday'; END $$",
               "CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('CREATE SUBSCRIPTION')"
               " EXECUTE FUNCTION public.no()")  # fmt: skip
    with pytest.raises(psycopg.errors.RaiseException) as caught:
        ground.stream()
    assert caught.value.diag.message_primary == "no subscriptions on a Sunday"
    assert password not in f"{caught.value!r} {caught.value.diag.context} {caught.value.diag.internal_query}"
    ground.run("base", "DROP EVENT TRIGGER no")
    joined = ground.stream()
    ground.validate()
    assert password in ground.one(
        "base", "SELECT subconninfo FROM pg_subscription WHERE subname = %s", ground.stream_record().subscription
    )
    assert password not in repr((joined, ground.plan, ground.databases, ground.stream_record()))
    everywhere = [
        str(ground.ask("base", f"SELECT x::text FROM migration.{table} x"))
        for table in ("slices", "attempts", "streams", "markers", "cuts", "validations")
    ]  # fmt: skip
    everywhere += [str(ground.ask(side, "SELECT a::text FROM pg_stat_activity a")) for side in ("legacy", "base")]
    assert all(password not in text for text in everywhere)
    mine = [line for log in logs for line in log.read_text(errors="replace").splitlines() if f"@{database} " in line]
    assert any("no subscriptions on a Sunday" in line for line in mine)
    assert not [log for log in logs if password in log.read_text(errors="replace")]


def test_a_quarter_under_cdc_whose_stream_a_dead_step_left_at_rest_follows_again_when_asked_for(ground: Ground) -> None:
    ground.fill(91).streamed()
    ground.ask("base", "UPDATE migration.streams SET status = 'paused', reason = 'a dead step' RETURNING 1")
    disable_subscription(ground)
    assert ground.stream().how == "already under CDC"
    assert ground.stream_record().status is StreamStatus.LIVE
    ground.run("legacy", "UPDATE bookings SET guests = 99")
    ground.assert_same()


@pytest.mark.long
def test_a_legacy_whose_markers_were_lost_begins_behind_those_that_the_base_has(ground: Ground) -> None:
    ground.fill(91).streamed()
    for number in (1, 2, 3):
        ground.validate(number)
    before = ground.one("base", "SELECT max(id) FROM migration.markers")
    ground.run("legacy", "DROP SCHEMA migration CASCADE")
    ground.stream(rebuild=True)
    ground.validate(4)
    assert ground.one("base", "SELECT max(id) FROM migration.markers") > before
    ground.assert_same()
