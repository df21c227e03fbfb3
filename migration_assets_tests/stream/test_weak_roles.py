"""Roles that have what preflight asks for, and nothing more, can do every step of the change stream."""

import secrets
import threading
from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migration_assets.domain.errors import CutError, SliceMismatchError, StreamError, TableSpecError
from migration_assets.domain.findings import Area, Severity, blocking
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import examine, run_preflight
from migration_assets.stream.holding import continue_stream, hold_stream
from migration_assets_tests.freezes import freezes
from migration_assets_tests.ground import BOOKINGS, QUARTER, Ground, wait_for
from migration_assets_tests.servers.drill import migration


@dataclass(frozen=True)
class Weak:
    """`ground` works as the weak role, `strong` as the superuser."""

    role: str
    password: str
    ground: Ground
    strong: Ground

    def strongly(self, side: Side, statement: str) -> None:
        """As the superuser, with the role's name in place of {} and the database's in place of {db}."""
        url = self.strong.databases.url(side)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL(statement).format(  # pyright: ignore[reportArgumentType]
                    sql.Identifier(self.role), db=sql.Identifier(str(conninfo_to_dict(url)["dbname"]))
                )
            )


def _url(url: str, role: str, password: str) -> str:
    parts = conninfo_to_dict(url)
    return f"postgresql://{role}:{password}@{parts['host']}:{parts['port']}/{parts['dbname']}"


@pytest.fixture
def weak(ground: Ground) -> Generator[Weak]:
    """The remedies of preflight's findings on rights, and no more than these."""
    role, password = f"weak_{secrets.token_hex(4)}", f"secret_{secrets.token_hex(6)}"
    both = ground.databases
    urls = Databases(_url(both.legacy_url, role, password), _url(both.base_url, role, password))
    weak = Weak(role, password, replace(ground, databases=urls), ground)
    ground.run("legacy", BOOKINGS)
    weak.strongly("legacy", f"CREATE ROLE {{}} LOGIN REPLICATION PASSWORD '{password}'")
    weak.strongly("legacy", "ALTER TABLE public.bookings OWNER TO {}")
    weak.strongly("legacy", "GRANT CREATE ON DATABASE {db} TO {}")
    weak.strongly("base", f"CREATE ROLE {{}} LOGIN PASSWORD '{password}' IN ROLE pg_create_subscription")
    weak.strongly("base", "GRANT CREATE ON DATABASE {db} TO {}")
    weak.strongly("base", "GRANT USAGE, CREATE ON SCHEMA public TO {}")
    ground.ask(
        "legacy",
        "INSERT INTO bookings SELECT n, '2024-04-01Z'::timestamptz + mod(n, 91) * interval '1 day', 1, n * 0.10, n"
        " FROM generate_series(1, 364) n RETURNING 1",
    )
    yield weak
    for side in ("base", "legacy"):
        weak.strongly(
            side, "REASSIGN OWNED BY {} TO CURRENT_USER; DROP OWNED BY {0}; DROP ROLE {0}".replace("{}", "{0}")
        )


def test_preflight_finds_nothing_that_blocks(weak: Weak) -> None:
    plan = PreflightPlan(as_of=datetime(2024, 7, 1, tzinfo=UTC))
    findings = run_preflight(weak.ground.databases, weak.ground.spec, weak.ground.calendar, plan=plan)
    assert [finding for finding in findings if finding.severity is Severity.BLOCKING] == []


@pytest.mark.long
def test_every_step_works(weak: Weak) -> None:
    ground = weak.ground
    ground.copy_all()
    ground.run("legacy", "UPDATE bookings SET guests = 2 WHERE id % 4 = 0")
    assert ground.stream().how == "activated"
    ground.run("legacy", "UPDATE bookings SET guests = 3 WHERE id % 5 = 0", "DELETE FROM bookings WHERE id % 9 = 0")
    ground.assert_same()
    assert ground.validate().cut.tries >= 1
    ground.run("base", "UPDATE bookings SET guests = 99 WHERE id = 1", "DELETE FROM bookings WHERE id = 2")
    with pytest.raises(SliceMismatchError):
        ground.validate()
    assert ground.repair(dry_run=True).differences.rows == 2
    repaired = ground.repair()
    assert repaired.differences.rows == 2
    ground.undo(repaired.repair_id)
    ground.repair()
    ground.copy(2)
    ground.streamed(QUARTER.next)
    assert ground.reconcile().equal
    hold_stream(ground.plan, "lunch")
    continue_stream(ground.plan)
    assert ground.stream(rebuild=True).how == "rebuilt"
    ground.run("legacy", "UPDATE bookings SET booked_at = booked_at + interval '50 days'")
    ground.assert_same(QUARTER, QUARTER.next)
    with pytest.raises(psycopg.errors.RaiseException, match="would not reach the base"):
        ground.run("legacy", "TRUNCATE bookings")


@pytest.mark.long
def test_a_rebuild_that_row_security_stops_leaves_the_stream_as_it_was(weak: Weak) -> None:
    ground = weak.ground
    ground.streamed()
    for side in ("base", "legacy"):
        weak.strongly(side, "ALTER TABLE public.bookings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        with pytest.raises(TableSpecError, match=f"public.bookings in the {side}: row level security is on"):
            ground.stream(rebuild=True)
        assert ground.one("base", "SELECT status FROM migration.streams") == "live"
        weak.strongly(side, "ALTER TABLE public.bookings NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
    ground.run("legacy", "UPDATE bookings SET guests = 2 WHERE id % 4 = 0")
    ground.assert_same()


def _write(url: str, stop: threading.Event) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.info.backend_pid % 300
        while not stop.is_set():
            # Both in one transaction, of a length at which ten writers leave no instant without an open one.
            connection.execute(
                f"UPDATE bookings SET guests = guests + 1 WHERE id = {row}; SELECT pg_sleep(0.05)".encode()
            )


@pytest.mark.long
def test_a_cut_finds_its_moment_among_writers_whose_age_it_may_not_see(weak: Weak) -> None:
    """Without pg_read_all_stats the activity of other roles is hidden: that does not make their writers old."""
    weak.ground.streamed()
    stop = threading.Event()
    writers = [threading.Thread(target=_write, args=(weak.strong.databases.legacy_url, stop)) for _ in range(10)]
    for writer in writers:
        writer.start()
    try:
        with freezes() as machine:
            cut = weak.ground.validate().cut
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert cut.writers_held_ms < 1000 + 2 * machine.longest_ms


@pytest.mark.long
def test_those_in_the_way_are_named_by_pid_at_least(weak: Weak) -> None:
    limits = replace(weak.ground.stream_limits, cut_patience_seconds=0.4, stream_patience_seconds=0.4)
    hasty = replace(weak.ground, stream_limits=limits)
    weak.ground.streamed()
    with psycopg.connect(weak.strong.databases.legacy_url) as writer:
        writer.execute("UPDATE bookings SET guests = 5 WHERE id = 5")
        pid = f"backend {writer.info.backend_pid} "
        with pytest.raises(CutError, match=pid):
            hasty.validate()
        with pytest.raises(StreamError, match=pid):
            hasty.stream(rebuild=True)
    assert weak.ground.stream().how == "rebuilt"
    weak.ground.assert_same()


def test_the_role_s_password_gets_into_no_log_of_the_server(weak: Weak, servers: EmbeddedServers) -> None:
    """Everything is logged there, with parameters; a weak role cannot hush that."""
    for setting in ("log_statement = 'all'", "log_min_duration_statement = 0", "log_parameter_max_length = -1"):
        weak.strongly("base", f"ALTER DATABASE {{db}} SET {setting}")
    weak.strongly("base", "CREATE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS"
                  " $$ BEGIN RAISE EXCEPTION 'no subscriptions on a Sunday'; END $$")  # fmt: skip
    weak.strongly("base", "CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('CREATE SUBSCRIPTION')"
                  " EXECUTE FUNCTION public.no()")  # fmt: skip
    with pytest.raises(psycopg.errors.RaiseException) as caught:
        weak.ground.streamed()
    assert caught.value.diag.message_primary == "no subscriptions on a Sunday"
    assert weak.password not in f"{caught.value} {caught.value.diag.context} {caught.value.diag.internal_query}"
    (log,) = (status.data_folder.parent / "server.log" for status in servers.status() if status.name == "base")
    wait_for(lambda: f"{weak.role}@" in log.read_text(errors="replace"), "the error is logged")
    assert weak.password not in log.read_text(errors="replace")
    weak.strongly("base", "DROP EVENT TRIGGER no")
    assert weak.ground.stream().how == "activated"
    assert weak.password not in log.read_text(errors="replace")
    assert weak.password not in log.read_text(errors="replace")


def test_a_schema_that_our_role_may_not_use_is_a_finding_whose_remedy_is_enough(weak: Weak) -> None:
    """Made by a superuser, for instance by an earlier trial of the same migration."""
    with weak.strong.databases.session("base", "test") as base:
        ensure_ledger(base)
    weak.strongly("legacy", "CREATE SCHEMA migration")
    product = migration(weak.ground)
    grant = f"GRANT USAGE, CREATE ON SCHEMA migration TO {weak.role};"
    found = {one.area: one for one in examine(product).findings if one.code == "own_schema"}
    for area in (Area.LEGACY, Area.BASE):
        assert (found[area].severity, found[area].remedy.partition(": ")[2]) == (Severity.BLOCKING, grant)
    for side in ("legacy", "base"):
        weak.strongly(side, grant)
    found = {one.area: one for one in examine(product).findings if one.code == "own_schema"}
    assert found[Area.LEGACY].severity is Severity.INFO
    assert "may not read it" in found[Area.BASE].evidence
    weak.strongly("base", found[Area.BASE].remedy.partition(": ")[2])
    assert [one.evidence for one in blocking(examine(product).findings)] == []
