"""Roles that have what preflight and readiness ask for, and nothing more, cut over and roll back."""

import re
import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migration_assets.cutover.stages import require_counted
from migration_assets.domain.errors import TriggersFireError
from migration_assets.domain.findings import Finding, Severity, worst_first
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.states import CutoverError
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.preflight.rights import examine_base_rights
from migration_assets.readiness.reverse_stream import examine_reverse
from migration_assets.readiness.rules import ReadinessPlan, Sides
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.cutover.ground import CutoverGround, past_the_hold
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.cutover.test_legacy_repair import mend
from migration_assets_tests.cutover.test_time_under_hold import weeks_to_compare
from migration_assets_tests.ground import wait_for
from migration_assets_tests.servers.drill import look

_ASKED_BY_PREFLIGHT: dict[Side, tuple[str, ...]] = {
    "legacy": (
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD {password}",
        "ALTER TABLE public.bookings OWNER TO {role}",
        "GRANT CREATE ON DATABASE {database} TO {role}",
    ),
    "base": (
        "CREATE ROLE {role} LOGIN PASSWORD {password} IN ROLE pg_create_subscription",
        "GRANT CREATE ON DATABASE {database} TO {role}",
        "GRANT USAGE, CREATE ON SCHEMA public TO {role}",
    ),
}


@dataclass(frozen=True)
class Weak:
    """`ground` works as the weak role, `strong` as the superuser."""

    role: str
    password: str
    ground: CutoverGround
    strong: CutoverGround

    def strongly(self, side: Side, statement: str) -> None:
        url = self.strong.databases.url(side)
        text = sql.SQL(statement).format(  # pyright: ignore[reportArgumentType]
            role=sql.Identifier(self.role),
            password=sql.Literal(self.password),
            database=sql.Identifier(str(conninfo_to_dict(url)["dbname"])),
        )
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(text)

    def blocking(self) -> dict[str, Finding]:
        return {code: one for code, one in self.findings().items() if one.severity is Severity.BLOCKING}

    def findings(self) -> dict[str, Finding]:
        ground = self.ground
        plan = ReadinessPlan(datetime(2024, 7, 1, tzinfo=UTC), timedelta(hours=24))
        with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
            of_legacy = require_table(legacy, ground.spec.table, "legacy")
            of_base = require_table(base, ground.spec.table, "base")
            found = examine_reverse(Sides(legacy, base, ground.spec, ground.calendar, plan, of_legacy, of_base))
        # Of several with one code the worst.
        return {one.code: one for one in reversed(worst_first(found))}

    def remedy(self, finding: Finding) -> None:
        """Exactly what it says."""
        where, _, statement = finding.remedy.partition(": ")
        self.strongly("base" if where == "in the base" else "legacy", statement.partition(" --")[0])


@pytest.fixture
def weak(databases: Urls) -> Generator[Weak]:
    strong = CutoverGround(Databases(databases.legacy_url, databases.base_url))
    role, password = f"weak_{secrets.token_hex(4)}", f"secret_{secrets.token_hex(6)}"
    urls = Databases(_url(databases.legacy_url, role, password), _url(databases.base_url, role, password))
    weak = Weak(role, password, replace(strong, databases=urls), strong)
    strong.fill(364)
    strong.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), 364)")
    for side, statements in _ASKED_BY_PREFLIGHT.items():
        for statement in statements:
            weak.strongly(side, statement)
    weak.ground.streamed()
    yield weak
    for side in ("base", "legacy"):
        weak.strongly(side, "REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def _url(url: str, role: str, password: str) -> str:
    parts = conninfo_to_dict(url)
    return f"postgresql://{role}:{password}@{parts['host']}:{parts['port']}/{parts['dbname']}"


@pytest.mark.long
def test_readiness_names_what_is_missing_and_with_that_every_step_works(weak: Weak) -> None:
    ground = weak.ground
    missing = weak.blocking()
    assert set(missing) == {"base_replication_right", "legacy_subscription_right"}
    # Without them it stops before anybody is held.
    with pytest.raises(CutoverError, match="stopped at begun: InsufficientPrivilege"):
        ground.cut()
    weak.remedy(missing["base_replication_right"])
    with pytest.raises(CutoverError, match=r"stopped at begun: .*permission denied to create subscription"):
        ground.cut()
    assert [(record.held_at, record.outcome) for record in ground.records()] == [(None, "aborted")] * 2
    weak.remedy(missing["legacy_subscription_right"])
    assert weak.blocking() == {}
    assert ground.cut(rehearse=True).outcome == "rehearsed"
    ground.insert("legacy")
    assert ground.cut(compare_all=False).outcome == "succeeded"
    assert weak.strong.insert("base") > 464
    settle_down(ground)
    ground.equal()
    assert ground.back().outcome == "succeeded"
    weak.strong.insert("legacy")
    ground.assert_same()
    assert ground.cut().outcome == "succeeded"
    weak.strong.insert("base")
    settle_down(ground)
    ground.equal()
    ground.back()
    ground.assert_same()


def test_a_session_that_our_role_may_not_look_into_is_waited_for(weak: Weak) -> None:
    """Without pg_read_all_stats not even its kind is seen: what it changed last may be in no count."""
    ground = weak.ground
    with (
        psycopg.connect(weak.strong.databases.base_url, autocommit=True) as stranger,
        ground.databases.session("base", "test") as base,
    ):
        since = base.execute("SELECT clock_timestamp()").fetchone()
        assert since is not None
        plan = ground.cutover_plan(patience_seconds=0.0)
        with pytest.raises(CutoverError, match=f"backend {stranger.info.backend_pid} .*of unknown state") as caught:
            require_counted(base, plan, since[0])
        weak.strongly("base", caught.value.next_step.partition("unknown: ")[2].partition(" shows")[0])
        with pytest.raises(CutoverError, match=f"backend {stranger.info.backend_pid} .*idle since") as caught:
            require_counted(base, plan, since[0])
        assert "GRANT" not in caught.value.next_step


@pytest.mark.long
def test_a_role_that_cannot_keep_triggers_from_firing_repairs_nothing_until_it_can(weak: Weak) -> None:
    ground, strong = weak.ground, weak.strong
    strong.run(
        "base",
        # Theirs, although it lies in the schema that is also ours.
        "CREATE FUNCTION migration.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER heard AFTER INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION migration.nothing()",
    )
    strong.run("base", "UPDATE bookings SET guests = -1 WHERE id = 31")
    granted_when_refused(weak, "base", "trigger heard of public.bookings", lambda: ground.repair(5))
    strong.run(
        "legacy",
        "CREATE TABLE payments AS SELECT id AS booking FROM bookings",
        "ALTER TABLE payments ADD FOREIGN KEY (booking) REFERENCES bookings ON DELETE CASCADE",
    )
    for finding in weak.blocking().values():
        weak.remedy(finding)
    ground.cut()
    past_the_hold(strong, "UPDATE bookings SET guests = -1 WHERE id = 31")
    strong.run(
        "legacy",
        "CREATE TABLE gone (id bigint)",
        "CREATE RULE tell AS ON DELETE TO bookings DO ALSO INSERT INTO gone VALUES (OLD.id)",
    )
    key = "foreign key payments_booking_fkey of public.payments, rule tell of public.bookings"
    granted_when_refused(weak, "legacy", key, lambda: mend(ground, 5))
    assert strong.one("legacy", "SELECT count(*) FROM payments") == 364
    assert strong.one("legacy", "SELECT count(*) FROM gone") == 0
    ground.equal()


def granted_when_refused(weak: Weak, side: Side, named: str, step: Callable[[], object]) -> None:
    with pytest.raises(TriggersFireError, match=re.escape(named)) as refused:
        step()
    told = weak.findings()["repairs_would_fire"]
    assert named in told.evidence
    assert told.remedy.partition("superuser: ")[2] in refused.value.next_step
    weak.strongly(side, told.remedy.partition("superuser: ")[2])
    step()
    assert "repairs_would_fire" not in weak.findings()


def test_a_sequence_that_may_not_be_read_or_set_is_named(weak: Weak) -> None:
    weak.strongly("legacy", "CREATE SEQUENCE public.numbers; GRANT USAGE ON SEQUENCE public.numbers TO {role}")
    weak.strongly("legacy", "ALTER TABLE public.bookings ALTER COLUMN guests SET DEFAULT nextval('public.numbers')")
    found = weak.blocking()["sequence_rights"]
    assert "may not read and set sequence public.numbers in the legacy" in found.evidence
    weak.remedy(found)
    assert "sequence_rights" not in weak.blocking()


def test_an_owner_that_is_somebody_else_is_named(weak: Weak) -> None:
    weak.strongly("base", "REASSIGN OWNED BY {role} TO CURRENT_USER")
    weak.strongly(
        "base", "GRANT ALL ON SCHEMA public, migration TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA migration TO {role}"
    )
    assert "base_ownership" in weak.blocking()
    weak.remedy(weak.blocking()["base_ownership"])
    assert "base_ownership" not in weak.blocking()
    weak.strongly("base", "REVOKE ALL ON SCHEMA migration FROM {role}")


@pytest.mark.long
def test_a_role_that_may_not_see_who_altered_the_subscription_is_told_the_grant(weak: Weak) -> None:
    ground = weak.ground
    meddle = "ALTER SUBSCRIPTION {0} DISABLE; ALTER SUBSCRIPTION {0} ENABLE".format(ground.stream_record().subscription)

    def alteration() -> bool:
        with weak.strong.databases.session("base", "stranger") as base:
            base.execute(meddle.encode())
        return ProblemCode.STREAM_ALTERED in look(ground)[1]

    assert ground.reconcile().equal
    with ground.databases.session("base", "test") as base:
        found = {one.code: one for one in examine_base_rights(base, ground.spec.table)}["alterations_right"]
    assert found.severity is Severity.WARNING
    assert not alteration()
    weak.strongly("base", found.remedy.partition(" --")[0])
    look(ground)  # notes what is there now
    assert alteration()


def skip_while_the_worker_goes_on(weak: Weak) -> None:
    """A change of W05 never arrives; the worker that is told to skip it was at work before, and is afterwards."""
    ground, strong = weak.ground, weak.strong
    name = ground.stream_record().subscription
    worker = "SELECT pid FROM pg_stat_subscription WHERE subname = %s AND pid IS NOT NULL"
    pid = strong.one("base", worker, name)
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
    with (
        strong.databases.session("base", "stranger") as base,
        strong.databases.session("legacy", "stranger") as legacy,
        base.transaction(),
    ):
        base.execute("LOCK TABLE public.bookings_fy25_q2_w06 IN ACCESS EXCLUSIVE MODE")
        strong.run("legacy", "UPDATE bookings SET guests = 6 WHERE id = 37")
        wait_for(lambda: strong.one("base", waits, pid), "the worker waits")
        # It looks at what it is to skip when it begins to apply this one.
        strong.run("legacy", "UPDATE bookings SET guests = 6 WHERE id = 38")
        with legacy.transaction():
            legacy.execute("UPDATE public.bookings SET guests = 77 WHERE id = 30")
            end = legacy.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert end
        strong.run("base", f"ALTER SUBSCRIPTION {name} SKIP (lsn = '{end[0]}')")  # pyright: ignore[reportArgumentType]
    ground.drain()
    assert strong.one("base", worker, name) == pid
    assert set(ground.contents("legacy")) - set(ground.contents("base")) != set()


def test_a_role_that_may_not_see_who_altered_the_subscription_compares_every_week(weak: Weak) -> None:
    """Told to skip a transaction, the worker that brought a proof goes on: only the catalogue tells."""
    ground = weak.ground
    assert ground.reconcile().equal
    skip_while_the_worker_goes_on(weak)
    assert "W05" in weeks_to_compare(ground)
    with ground.databases.session("base", "test") as base:
        found = {one.code: one for one in examine_base_rights(base, ground.spec.table)}["alterations_right"]
    weak.strongly("base", found.remedy.partition(" --")[0])
    assert look(ground)[1] == {}
    assert "W05" in weeks_to_compare(ground), "it was proven while nobody could see"
    assert ground.repair(5).differences.changed == 1
    assert ground.reconcile().equal
    wait_for(lambda: weeks_to_compare(ground) == [], "all is proven since")
