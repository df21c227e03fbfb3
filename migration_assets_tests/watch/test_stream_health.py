"""Every way to break a stream from outside, done to a real one: what a look sees, and what the rules make of it."""

import re
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from migration_assets.domain.samples import ProblemCode, StreamSample
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger import schema as ledger_schema
from migration_assets.ledger.own_objects import ledger_steps
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.stream import StreamStatus, set_status, stream_lock
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.watch.look import LookLimits, observe_stream
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import SPEC, Ground, wait_for
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.stream.small_stream import PATIENT, QUICK, SmallStream, lasting_stream, small_stream

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def stream(ground: Ground) -> SmallStream:
    """One to be broken for good."""
    return small_stream(ground)


@pytest.fixture(scope="module")
def undamaged(servers: EmbeddedServers) -> Generator[SmallStream]:
    with lasting_stream(servers) as made:
        made.ground.run("legacy", "CREATE TABLE other (id bigint PRIMARY KEY)")
        yield made


@pytest.fixture
def shared(undamaged: SmallStream) -> Generator[SmallStream]:
    """One that is well, and must be so again afterwards."""
    undamaged.healthy()
    yield undamaged
    undamaged.mend()
    undamaged.require_health()


def test_a_healthy_stream_has_no_problem_and_a_lag_in_milliseconds(shared: SmallStream) -> None:
    first, second = shared.healthy(), shared.healthy()
    assert shared.problems(first, second) == {}
    assert second.lag_seconds is not None
    assert second.lag_seconds < patience(5)
    assert (second.drifts, second.slot_active, second.wal_status) == ((), True, "reserved")
    assert second.worker_pids == first.worker_pids
    assert StreamSample.from_json(second.to_json()) == second


def test_heartbeats_older_than_asked_for_leave_both_sides_and_count_as_no_conflict(shared: SmallStream) -> None:
    for _ in range(3):
        shared.look(LookLimits(heartbeat_seconds=10, keep_heartbeats_seconds=0))
    before = shared.healthy()
    wait_for(lambda: shared.ground.one("base", "SELECT count(*) FROM migration.markers") <= 2, "their deletes arrive")
    assert shared.ground.one("legacy", "SELECT count(*) FROM migration.markers") <= 2
    after = shared.healthy()
    assert after.conflicts == before.conflicts
    assert not any((after.conflicts or {}).values())


def test_without_a_stream_the_legacy_is_left_alone(ground: Ground) -> None:
    nothing = Databases(NOWHERE, ground.databases.base_url)
    assert observe_stream(nothing, SPEC).legacy_error is None  # no ledger at all
    with ground.databases.session("base", "test") as base:
        ensure_ledger(base)
    sample = observe_stream(nothing, SPEC)
    assert (sample.status, sample.base_error, sample.legacy_error) == (None, None, None)


def test_a_ledger_from_before_the_locks_were_rows_is_looked_at_as_it_is(ground: Ground) -> None:
    """The watch goes on, and is what tells of a base where nobody has upgraded yet."""
    with ground.databases.session("base", "test") as base:
        ledger_schema._upgrade(base, ledger_steps()[:10])  # pyright: ignore[reportPrivateUsage]
    ground.run(
        "base",
        "INSERT INTO migration.streams (relation, publication, slot, subscription, status)"
        " VALUES ('public.bookings', 'p', 's', 'p', 'live')",
    )
    sample = observe_stream(ground.databases, SPEC)
    assert (sample.status, sample.base_error, sample.worked_on_by) == ("live", None, None)
    assert ground.one("base", "SELECT max(version) FROM migration.schema_versions") == 10


_PUBLISHED = "bookings WHERE ({}), migration.markers WHERE (relation = 'public.bookings')"
# What is done, on which side, how it is undone, what a look must call it, and a word of what it must say.
DRILLS: list[tuple[Side, str, str, ProblemCode, str]] = [
    ("legacy", "ALTER PUBLICATION {} SET TABLE {FILTERED}", "ALTER PUBLICATION {} SET TABLE {AS_BUILT}",
     ProblemCode.PUBLICATION_ALTERED, "2024-05-01"),
    ("legacy", "ALTER PUBLICATION {} DROP TABLE bookings", "ALTER PUBLICATION {} SET TABLE {AS_BUILT}",
     ProblemCode.PUBLICATION_ALTERED, "public.bookings is not published"),
    ("legacy", "ALTER PUBLICATION {} DROP TABLE migration.markers", "ALTER PUBLICATION {} SET TABLE {AS_BUILT}",
     ProblemCode.PUBLICATION_ALTERED, "migration.markers is not published"),
    ("legacy", "ALTER PUBLICATION {} ADD TABLE other", "ALTER PUBLICATION {} SET TABLE {AS_BUILT}",
     ProblemCode.PUBLICATION_ALTERED, "public.other is published as well"),
    ("legacy", "ALTER PUBLICATION {} SET TABLE bookings (id, booked_at), migration.markers",
     "ALTER PUBLICATION {} SET TABLE {AS_BUILT}", ProblemCode.PUBLICATION_ALTERED, "only some columns"),
    ("legacy", "ALTER PUBLICATION {} SET (publish = 'insert, update')",
     "ALTER PUBLICATION {} SET (publish = 'insert, update, delete')", ProblemCode.PUBLICATION_ALTERED, "delete"),
    ("legacy", "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
     "ALTER PUBLICATION {} SET (publish = 'insert, update, delete')", ProblemCode.PUBLICATION_ALTERED, "truncate"),
    ("legacy", "ALTER TABLE bookings REPLICA IDENTITY DEFAULT", "ALTER TABLE bookings REPLICA IDENTITY FULL",
     ProblemCode.IDENTITY_ALTERED, "'d'"),
    ("legacy", "ALTER TABLE bookings DISABLE TRIGGER migration_assets_no_truncate",
     "ALTER TABLE bookings ENABLE ALWAYS TRIGGER migration_assets_no_truncate", ProblemCode.GUARD_MISSING, "guard"),
    ("legacy", "ALTER TABLE bookings ADD COLUMN colour text", "ALTER TABLE bookings DROP COLUMN colour",
     ProblemCode.COLUMNS_DIFFER, "colour"),
    ("legacy", "ALTER TABLE bookings ALTER COLUMN guests TYPE bigint",
     "ALTER TABLE bookings ALTER COLUMN guests TYPE integer", ProblemCode.COLUMNS_DIFFER, "bigint"),
    ("legacy", "ALTER TABLE bookings RENAME TO old_bookings", "ALTER TABLE old_bookings RENAME TO bookings",
     ProblemCode.COLUMNS_DIFFER, "gone from the legacy"),
    ("base", "ALTER TABLE migration.markers DROP CONSTRAINT markers_pkey",
     "ALTER TABLE migration.markers ADD PRIMARY KEY (relation, id)", ProblemCode.MARKER_KEY_MISSING, "primary key"),
    ("base", "ALTER SUBSCRIPTION {} SET (streaming = parallel)", "ALTER SUBSCRIPTION {} SET (streaming = on)",
     ProblemCode.SUBSCRIPTION_ALTERED, "parallel"),
    ("base", "ALTER SUBSCRIPTION {} SET (disable_on_error = true)",
     "ALTER SUBSCRIPTION {} SET (disable_on_error = false)", ProblemCode.SUBSCRIPTION_ALTERED, "disable_on_error"),
    ("base", "ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} ENABLE",
     ProblemCode.SUBSCRIPTION_DISABLED, "disabled"),
    ("legacy", "ALTER TABLE migration.markers ADD CONSTRAINT no_more CHECK (kind <> 'heartbeat') NOT VALID",
     "ALTER TABLE migration.markers DROP CONSTRAINT no_more", ProblemCode.HEARTBEAT_FAILED, "violates check"),
]  # fmt: skip


@pytest.mark.long(but=1)
@pytest.mark.parametrize("drill", DRILLS, ids=[f"{drill[3]}-{number}" for number, drill in enumerate(DRILLS)])
def test_what_is_altered_by_hand_is_named_and_forgotten_when_it_is_undone(
    shared: SmallStream, drill: tuple[Side, str, str, ProblemCode, str]
) -> None:
    side, done, undone, code, word = drill
    as_built = shared.ground.one("base", "SELECT row_filter FROM migration.streams")

    def run(statement: str) -> None:
        statement = statement.replace("{AS_BUILT}", _PUBLISHED.replace("{}", as_built))
        shared.on(side, statement.replace("{FILTERED}", _PUBLISHED.replace("{}", "booked_at > '2024-05-01'")))

    run(done)
    try:
        found = shared.wrong_now()
    finally:
        run(undone)
    assert code in found, found
    assert word in found[code].what
    assert found[code].next_step


def test_a_dropped_publication_is_missed(stream: SmallStream) -> None:
    stream.healthy()
    stream.on("legacy", "DROP PUBLICATION {}")
    assert ProblemCode.PUBLICATION_MISSING in stream.wrong_now()


def test_a_dropped_subscription_is_missed(stream: SmallStream) -> None:
    stream.healthy()
    stream.drop_subscription()
    found = stream.wrong_now()
    assert set(found) == {ProblemCode.SUBSCRIPTION_MISSING}
    assert "rebuild" in found[ProblemCode.SUBSCRIPTION_MISSING].next_step


def test_a_dropped_slot_leaves_a_subscription_that_looks_enabled_and_an_apply_worker_that_loops(
    stream: SmallStream,
) -> None:
    healthy = stream.healthy()
    stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    stream.wait_for_slot_to_be_free()
    stream.on("legacy", "SELECT pg_drop_replication_slot('{}')")
    stream.on("base", "ALTER SUBSCRIPTION {} ENABLE")
    sample = stream.look()
    assert sample.subscription_enabled
    assert sample.slot_exists is False
    assert ProblemCode.SLOT_MISSING in stream.problems(healthy, sample)


def test_a_worker_that_cannot_reach_the_legacy_is_down_or_looping(stream: SmallStream) -> None:
    stream.healthy()
    stream.on("base", "ALTER SUBSCRIPTION {} CONNECTION 'host=127.0.0.1 port=1 dbname=nothing'")
    wait_for(
        lambda: stream.wrong_now().keys() & {ProblemCode.WORKER_DOWN, ProblemCode.WORKER_LOOPING},
        "the worker is seen to come and go",
    )


@pytest.mark.long
def test_an_owner_without_a_right_on_a_leaf_is_named_with_the_right(stream: SmallStream) -> None:
    stream.healthy()
    role = f"role_{stream.names.publication[-12:]}"
    leaf = "bookings_fy25_q2_w02"
    stream.on("base", f"CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}")
    try:
        for relation in ("bookings", "bookings_fy25_q2", leaf):
            stream.on("base", f"ALTER TABLE {relation} OWNER TO {role}")
        stream.on("base", f"REVOKE INSERT ON bookings FROM {role}")
        stream.on("base", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; REVOKE INSERT ON bookings FROM {role}")
        stream.book(1)
        wait_for(lambda: stream.arrived(1), "what is missing on the root alone stops nothing")
        assert ProblemCode.RIGHTS_MISSING not in stream.wrong_now()

        stream.on("base", f"REVOKE INSERT, DELETE ON {leaf} FROM {role}")
        stream.book(2)
        found = stream.wrong_now()
        assert found[ProblemCode.RIGHTS_MISSING].what == f"{role} lacks DELETE, INSERT on public.{leaf}"
        wait_for(lambda: (stream.look().apply_errors or 0) > 0, "the worker fails for it")
        assert not stream.arrived(2)

        stream.on("base", f"GRANT INSERT, DELETE ON {leaf} TO {role}")
        wait_for(lambda: stream.arrived(2), "the stream goes on by itself")
        assert ProblemCode.RIGHTS_MISSING not in stream.wrong_now()
    finally:
        stream.on("base", f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def test_an_owner_of_the_subscription_who_may_not_log_in_is_named(shared: SmallStream) -> None:
    role = f"mute_{shared.names.publication[-12:]}"
    shared.on("base", f"CREATE ROLE {role} NOLOGIN SUPERUSER")
    try:
        shared.on("base", "ALTER SUBSCRIPTION {} OWNER TO " + role)
        found = shared.wrong_now()
        assert f"{role} may not log in" in found[ProblemCode.RIGHTS_MISSING].what
    finally:
        shared.on("base", "ALTER SUBSCRIPTION {} OWNER TO CURRENT_USER")
        shared.on("base", f"DROP ROLE {role}")


@pytest.mark.long
def test_a_change_that_meets_no_row_is_counted_as_a_conflict(shared: SmallStream) -> None:
    shared.book(1)
    wait_for(lambda: shared.arrived(1), "the row arrives")
    before = shared.healthy()
    shared.on("base", "DELETE FROM bookings WHERE id = 1")
    shared.on("legacy", "UPDATE bookings SET note = 'late' WHERE id = 1")
    shared.healthy()
    wait_for(lambda: shared.problems(before, shared.look(PATIENT)), "the conflict is counted")
    found = shared.problems(before, shared.look())
    assert "1 update_missing" in found[ProblemCode.CONFLICTS].what


@pytest.mark.long
@pytest.mark.usefixtures("readable_log")
def test_an_error_of_the_worker_shows_as_lag_and_in_the_counter_with_its_cause(shared: SmallStream) -> None:
    before = shared.healthy()
    shared.on("base", "ALTER TABLE bookings ADD CONSTRAINT none_of_these CHECK (note <> 'small')")
    shared.book(3)
    samples = [before, shared.look()]
    wait_for(
        lambda: samples.append(shared.look()) or ProblemCode.APPLY_ERRORS in shared.problems(before, samples[-1]),
        "the error is counted",
    )
    assert samples[-1].heartbeat_arrived is not True
    assert samples[-1].lag_seconds is not None
    assert samples[-1].lag_seconds > 0.3
    told = shared.problems(before, samples[-1])[ProblemCode.APPLY_ERRORS].what
    assert 'the worker says: new row for relation "bookings_fy25_q2_w02" violates check constraint' in told
    assert "the base alone has CHECK none_of_these" in told
    assert "small" not in told
    shared.on("base", "ALTER TABLE bookings DROP CONSTRAINT none_of_these")
    wait_for(lambda: shared.arrived(3), "it goes on")
    assert shared.healthy().lag_seconds is not None


def test_the_lag_of_a_stuck_stream_is_the_age_of_the_oldest_marker_and_few_are_sent(shared: SmallStream) -> None:
    count = "SELECT count(*) FROM migration.markers"
    before = shared.ground.one("legacy", count)
    shared.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    shared.wait_for_slot_to_be_free()
    ages = [shared.look().lag_seconds or 0.0 for _ in range(3)]
    assert ages == sorted(ages)
    assert shared.ground.one("legacy", count) == before + 1


@pytest.mark.long
def test_whose_lock_the_worker_waits_for_is_told_with_the_lag(shared: SmallStream) -> None:
    url = make_conninfo(shared.ground.databases.base_url, application_name="a report")
    with psycopg.connect(url) as reader:
        reader.execute("LOCK TABLE bookings IN SHARE MODE")
        shared.ground.run("legacy", "INSERT INTO bookings VALUES (4711, '2024-04-02Z')")
        told = f"backend {reader.info.backend_pid} (role {reader.info.user}, a report)"
        wait_for(lambda: shared.look().worker_waits_for == told, "the worker waits for the reader")
        late = replace(shared.look(), lag_seconds=1000.0)
        assert told in shared.problems(late)[ProblemCode.LAG].what
    shared.ground.run("legacy", "DELETE FROM bookings WHERE id = 4711")
    assert shared.healthy().worker_waits_for is None


def test_markers_of_an_earlier_stream_never_count_as_lag(stream: SmallStream) -> None:
    stream.ground.run(
        "legacy",
        "INSERT INTO migration.markers"
        " SELECT 'public.bookings', nextval('migration.marker_id'), 'cut', now() - interval '1 day'",
    )
    stream.ground.run("base", "UPDATE migration.streams SET exact_since_marker = 500")
    stream.ground.run("legacy", "SELECT setval('migration.marker_id', 1000)")
    sample = stream.healthy()
    assert sample.lag_seconds is not None
    assert sample.lag_seconds < patience(5)


@pytest.mark.long
@pytest.mark.parametrize("status", [StreamStatus.PAUSED, StreamStatus.HELD, StreamStatus.JOINING])
def test_a_stream_left_standing_is_a_problem_after_a_while_and_says_why(
    shared: SmallStream, status: StreamStatus
) -> None:
    with shared.ground.databases.session("base", "test") as base:
        set_status(base, SPEC.relation, status, "a drill")
    shared.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    assert shared.wrong_now() == {}
    shared.on("base", "UPDATE migration.streams SET status_since = status_since - interval '1 hour'")
    found = shared.wrong_now()
    assert set(found) == {ProblemCode.STREAM_STANDING}
    assert re.search(
        rf"{status} for 3,6\d\d s \(a drill\); nobody works on it", found[ProblemCode.STREAM_STANDING].what
    )


def test_a_step_that_holds_the_stream_may_have_it_disabled(shared: SmallStream) -> None:
    with shared.ground.databases.session("base", "step") as base, stream_lock(base, SPEC.relation):
        shared.on("base", "ALTER SUBSCRIPTION {} DISABLE")
        assert shared.wrong_now() == {}
    assert ProblemCode.SUBSCRIPTION_DISABLED in shared.wrong_now()


@pytest.mark.long
def test_a_lock_in_the_way_makes_the_structure_unknown_not_wrong(shared: SmallStream) -> None:
    with psycopg.connect(shared.ground.databases.legacy_url) as blocker:
        blocker.execute("ALTER TABLE bookings ADD COLUMN later text")
        sample = shared.look()
        blocker.rollback()
    assert (sample.legacy_error, sample.drifts) == (None, None)
    assert shared.problems(sample) == {}


def test_a_legacy_that_is_away_is_in_the_sample(shared: SmallStream) -> None:
    away = Databases(NOWHERE, shared.ground.databases.base_url)
    sample = observe_stream(away, SPEC, QUICK)
    found = shared.problems(sample)
    assert set(found) == {ProblemCode.LEGACY_UNREACHABLE}
    assert sample.status == "live"


def test_a_base_that_is_away_is_in_the_sample_and_the_slot_is_still_seen(shared: SmallStream) -> None:
    away = Databases(shared.ground.databases.legacy_url, NOWHERE)
    sample = observe_stream(away, SPEC, QUICK)
    assert set(shared.problems(sample)) == {ProblemCode.BASE_UNREACHABLE}
    assert sample.retained_wal_bytes is not None


def test_a_role_without_connections_left_makes_a_sample_that_says_so(shared: SmallStream) -> None:
    role = f"few_{shared.names.publication[-12:]}"
    shared.on("legacy", f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0 PASSWORD 'x'")
    try:
        url = make_conninfo(shared.ground.databases.legacy_url, user=role, password="x")
        sample = observe_stream(Databases(url, shared.ground.databases.base_url), SPEC, QUICK)
        assert "too many connections" in (sample.legacy_error or "")
    finally:
        shared.on("legacy", f"DROP ROLE {role}")


def test_the_load_of_others_is_counted_and_ours_is_not(shared: SmallStream) -> None:
    sleep = "SELECT pg_sleep(60)"
    with ExitStack() as stack:
        for name in ("shop", "shop", "migration_assets:copy"):
            url = make_conninfo(shared.ground.databases.legacy_url, application_name=name)
            session = stack.enter_context(closing(psycopg.connect(url, autocommit=True)))
            session.pgconn.send_query(sleep.encode())
        wait_for(lambda: shared.look().legacy_active_sessions == 2, "two of the three count")


@pytest.mark.long
def test_a_lost_slot_is_named(small_wal: SmallStream) -> None:
    stream = small_wal
    stream.healthy()
    stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    stream.wait_for_slot_to_be_free()
    seen: list[str | None] = []
    for _ in range(8):
        stream.on("legacy", "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000)); SELECT pg_switch_wal()")
        seen.append(stream.look().wal_status)
    assert "unreserved" in seen or seen[-1] == "lost", seen
    stream.on("legacy", "CHECKPOINT")
    stream.on("base", "ALTER SUBSCRIPTION {} ENABLE")
    sample = stream.look()
    found = stream.problems(sample)
    assert ProblemCode.SLOT_LOST in found
    assert sample.subscription_enabled
    assert "max_slot_wal_keep_size" in found[ProblemCode.SLOT_LOST].next_step


@pytest.fixture
def readable_log(shared: SmallStream) -> Generator[None]:
    """The base tells where its log is, as with a logging collector."""
    data = Path(shared.ground.one("base", "SHOW data_directory"))
    (data / "current_logfiles").write_text(f"stderr {data.parent / 'server.log'}\n", encoding="utf-8")
    (data / "current_logfiles").chmod(0o644)
    yield
    (data / "current_logfiles").unlink()


@pytest.fixture
def small_wal() -> Generator[SmallStream]:
    """On servers of its own: the limit would hit the slots of all other tests."""
    with quick_pair() as pair, lasting_stream(pair) as made:
        with psycopg.connect(pair.legacy_url("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
            connection.execute("SELECT pg_reload_conf()")
        wait_for(lambda: made.ground.one("legacy", "SHOW max_slot_wal_keep_size") == "16MB", "the limit holds")
        yield made
