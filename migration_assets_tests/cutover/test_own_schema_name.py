"""Our schema under another name, beside a schema `migration` of somebody else that nothing may touch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import LiteralString

import psycopg
import pytest
from click.testing import CliRunner

from migration_assets.abandon.abandon import abandon
from migration_assets.cli import main
from migration_assets.domain.errors import LedgerError, SliceMismatchError
from migration_assets.domain.findings import blocking
from migration_assets.domain.schema_name import RESERVED, renamed, schema_flaw
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.session_locks import make_session_locks
from migration_assets.postgres.sessions import Connected, Databases, Side, Timeouts
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import run_preflight
from migration_assets_tests.abandon.catalogue import assert_as_found, catalogue
from migration_assets_tests.clones import Clones
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.cutover.ground import SIDES, CutoverGround
from migration_assets_tests.ground import QUARTER, wait_for

NAME = "moves_of_bookings"
_PLAN = PreflightPlan(as_of=datetime(2024, 6, 24, tzinfo=UTC))
# What the users' own schema `migration` has: of their table a type, a check, a default and an index use it, by names
# that our tables have, too. What is written to any other table of theirs there was written by mistake.
_THEIRS: tuple[LiteralString, ...] = (
    "CREATE SCHEMA migration",
    "CREATE SEQUENCE migration.slices",
    "CREATE DOMAIN migration.markers AS text",
    "CREATE FUNCTION migration.holds(integer) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 IS NOT NULL'",
    "CREATE TABLE migration.streams (x int)",
    "CREATE TABLE migration.session_locks (x int)",
    "CREATE FUNCTION migration.refuse_writes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'theirs'; END $$",
    ("CREATE TRIGGER mine BEFORE INSERT OR UPDATE OR DELETE ON migration.streams FOR EACH STATEMENT"
    " EXECUTE FUNCTION migration.refuse_writes()"),
    ("CREATE TRIGGER mine BEFORE INSERT OR UPDATE OR DELETE ON migration.session_locks FOR EACH STATEMENT"
    " EXECUTE FUNCTION migration.refuse_writes()"),
)  # fmt: skip
_ON_THE_TABLE: tuple[LiteralString, ...] = (
    (
        "ALTER TABLE bookings ADD COLUMN kind migration.markers, ADD COLUMN place bigint"
        " DEFAULT nextval('migration.slices')"
    ),
    "UPDATE bookings SET kind = 'a''migration.slices', place = id",
    "ALTER TABLE bookings ADD CONSTRAINT guests_hold CHECK (migration.holds(guests))",
    "CREATE INDEX bookings_hold ON bookings (migration.holds(guests), id)",
)
_WHAT_IS_THERE: LiteralString = (
    "SELECT c.relname::text, c.relkind::text FROM pg_class c WHERE c.relnamespace = to_regnamespace('\"migration\"')"
    " UNION ALL SELECT proname, 'f' FROM pg_proc WHERE pronamespace = to_regnamespace('\"migration\"') ORDER BY 1, 2"
)


def _renaming(ground: CutoverGround) -> CutoverGround:
    return replace(ground, databases=replace(ground.databases, own_schema=NAME))


def _theirs(ground: CutoverGround, side: Side) -> list[tuple[str, str]]:
    with psycopg.connect(ground.databases.url(side)) as session:
        return session.execute(_WHAT_IS_THERE).fetchall()


def _do(ground: CutoverGround, side: Side, *statements: LiteralString) -> None:
    with psycopg.connect(ground.databases.url(side), autocommit=True) as session:
        for statement in statements:
            session.execute(statement)


@pytest.fixture
def empty(databases: Urls) -> CutoverGround:
    """Two empty databases."""
    return CutoverGround(Databases(databases.legacy_url, databases.base_url))


@pytest.fixture
def beside(empty: CutoverGround) -> CutoverGround:
    """Both sides have a schema `migration` of somebody else, which the table uses; ours has another name."""
    ground = _renaming(empty)
    for side in SIDES:
        _do(ground, side, *_THEIRS)
    ground.fill(182)
    _do(ground, "legacy", *_ON_THE_TABLE)
    ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), 182)")
    return ground


def test_a_whole_life_beside_a_schema_of_our_usual_name_touches_nothing_of_it(beside: CutoverGround) -> None:
    ground = beside
    before = catalogue(ground)
    theirs = {side: _theirs(ground, side) for side in SIDES}
    assert blocking(run_preflight(ground.databases, ground.spec, ground.calendar, plan=_PLAN)) == []
    ground.open()
    ground.copy(5)
    ground.seemingly_copied()
    ground.stream()
    ground.copy(6)
    ground.run("base", "DELETE FROM bookings WHERE id = (SELECT min(id) FROM bookings)")
    repaired = ground.repair(1)
    assert repaired.differences.missing == 1
    ground.undo(repaired.repair_id)
    with pytest.raises(SliceMismatchError):
        ground.validate(1)
    ground.repair(1)
    assert ground.reconcile().equal
    assert ground.cut(rehearse=True).outcome == "rehearsed"
    assert ground.cut().outcome == "succeeded"
    ground.insert("base")
    assert ground.back().outcome == "succeeded"
    ground.insert("legacy")
    ground.assert_same(QUARTER)
    for side in SIDES:
        assert _theirs(ground, side) == theirs[side]
        # Whoever forgets the setting does not take what is theirs for ours.
        forgetful = replace(ground.databases, own_schema="migration")
        with pytest.raises(LedgerError, match=f"in schema {NAME} of the {side}"), forgetful.session(side, "test"):
            pass
    abandon(ground.plan, apply=True)
    before["relations"] = catalogue(ground)["relations"]  # its sequence and its rows moved on
    assert_as_found(ground, before)
    assert _theirs(ground, "legacy") == theirs["legacy"]


def _refused(ground: CutoverGround, command: str) -> str:
    """What a person with another setting reads, who types that."""
    environment = {
        "MIGRATION_LEGACY_URL": ground.databases.legacy_url,
        "MIGRATION_BASE_URL": ground.databases.base_url,
        "MIGRATION_TABLE": "public.bookings",
        "MIGRATION_OWN_SCHEMA": NAME,
        "COLUMNS": "1000",
    }
    done = CliRunner().invoke(main, command.split(), env=environment)
    assert done.exit_code == 2, (command, done.output)
    return done.stderr


def test_a_process_with_another_setting_is_refused_whatever_it_wants(empty: CutoverGround) -> None:
    ground = empty
    ground.fill(91)
    ground.streamed()
    other = _renaming(ground)
    for side in SIDES:
        elsewhere = rf"schema migration of the {side}, and MIGRATION_OWN_SCHEMA names {NAME}"
        with pytest.raises(LedgerError, match=elsewhere), other.databases.session(side, "test", or_standby=True):
            pass
        with pytest.raises(LedgerError, match=elsewhere):
            other.databases.connect(side, "test", Timeouts())
    ground.cut()
    # It would be told that nobody holds writes, that there is nothing to abandon, or how to drop a slot that is in use.
    for command in ("status", "release-writes", "hold-again", "stream status", "stream recover --by Ada", "abandon",
                    "abandon --legacy-only", "validate FY25-Q2 W01", "repair FY25-Q2 W01", "rollback"):  # fmt: skip
        said = _refused(ground, command)
        assert "MIGRATION_OWN_SCHEMA=migration" in said, command
        assert "nothing was touched" in said, command
    for side in SIDES:
        assert ground.one(side, "SELECT to_regnamespace(%s) IS NULL", NAME)
    assert ground.charge() == "base"


def test_a_ledger_under_another_name_is_not_begun_beside_a_known_legacy(empty: CutoverGround, clones: Clones) -> None:
    ground = empty
    ground.fill(91)
    ground.streamed()
    with clones.empty() as fresh:
        other = replace(ground, databases=Databases(ground.databases.legacy_url, fresh.base_url, own_schema=NAME))
        with (
            other.databases.session("base", "test") as base,
            pytest.raises(LedgerError, match="schema migration of the legacy"),
        ):
            ensure_ledger(base)
        assert "schema migration of the legacy" in _refused(other, "preflight")
        assert other.one("base", "SELECT to_regnamespace(%s) IS NULL", NAME)
        away = replace(other.databases, legacy_url="host=127.0.0.1 port=1 dbname=away")
        with away.session("base", "test") as base:  # what cannot be reached stops nobody here
            assert ensure_ledger(base)


@pytest.mark.parametrize(("side", "begin"), [("base", ensure_ledger), ("legacy", make_session_locks)])
def test_of_two_settings_that_begin_at_the_same_moment_one_is_refused(
    empty: CutoverGround, side: Side, begin: Callable[[Connected], object]
) -> None:
    other = _renaming(empty)
    with (
        empty.databases.session(side, "first") as first,
        other.databases.session(side, "second") as second,
        ThreadPoolExecutor(1) as pool,
    ):
        with first.transaction():
            begin(first)
            late = pool.submit(begin, second)
            waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            wait_for(lambda: late.done() or empty.one(side, waits, second.info.backend_pid), "the second waits")
        with pytest.raises(LedgerError, match=f"schema migration of the {side}"):
            late.result()
    assert empty.one(side, "SELECT to_regnamespace(%s) IS NULL", NAME)


def test_a_schema_in_the_way_of_the_beginning_is_named(empty: CutoverGround) -> None:
    empty.run("legacy", "CREATE SCHEMA migration_assets_begins")
    with (
        empty.databases.session("legacy", "test") as legacy,
        pytest.raises(LedgerError, match="there is a schema migration_assets_begins"),
    ):
        make_session_locks(legacy)


def test_preflight_names_a_second_schema_like_ours(empty: CutoverGround) -> None:
    ground = empty
    ground.fill(91)
    ground.open()
    ground.run("base", "CREATE SCHEMA brought", "CREATE TABLE brought.markers (LIKE migration.markers INCLUDING ALL)")
    found = blocking(run_preflight(ground.databases, ground.spec, ground.calendar, plan=_PLAN))
    (one,) = [one for one in found if one.code == "own_schema"]
    assert "this program also has objects in schema brought" in one.evidence
    assert "may it be dropped" in one.remedy


def test_a_schema_that_somebody_renamed_is_renamed_back(empty: CutoverGround) -> None:
    ground = empty
    ground.fill(91)
    ground.streamed()
    ground.cut()
    for side in SIDES:
        _do(ground, side, "ALTER SCHEMA migration RENAME TO moves_of_bookings")
    for side in SIDES:
        with (
            _renaming(ground).databases.session(side, "test") as session,
            pytest.raises(LedgerError, match="functions in it still call it migration") as refused,
        ):
            make_session_locks(session)
        assert f"ALTER SCHEMA {NAME} RENAME TO migration;" in str(refused.value)
    assert "was renamed" in _refused(ground, "rollback")
    assert "was renamed" in _refused(ground, "release-writes")
    assert "was renamed" in _refused(ground, "repair-legacy FY25-Q2")
    for side in SIDES:
        _do(ground, side, "ALTER SCHEMA moves_of_bookings RENAME TO migration")
    assert ground.back().outcome == "succeeded"


def test_a_schema_that_a_stranger_made_like_ours_stops_nobody(empty: CutoverGround) -> None:
    ground = empty
    ground.run("base", "CREATE ROLE stranger_of_names", "CREATE SCHEMA like_ours AUTHORIZATION stranger_of_names",
               "CREATE TABLE like_ours.markers (relation text, id integer, kind text, sent_at timestamptz,"
               " PRIMARY KEY (relation, id))",
               "ALTER TABLE like_ours.markers OWNER TO stranger_of_names")  # fmt: skip
    try:
        with ground.databases.session("base", "test") as base:
            assert ensure_ledger(base)
    finally:
        ground.run("base", "DROP OWNED BY stranger_of_names", "DROP ROLE stranger_of_names")


@pytest.mark.parametrize("side", ["legacy", "base"])
def test_the_reserved_words_are_those_of_the_servers(empty: CutoverGround, side: Side) -> None:
    words = empty.ask(side, "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    assert {word for (word,) in words} <= RESERVED
    others = empty.ask(side, "SELECT word FROM pg_get_keywords() WHERE catcode NOT IN ('R', 'T') ORDER BY 1")
    # Every other word can be one, in each way in which our statements use it.
    with psycopg.connect(empty.databases.url(side)) as session:
        for (word,) in others:
            if schema_flaw(word) is None:
                text = renamed(
                    "CREATE SCHEMA migration; CREATE TABLE migration.slices (x int); SELECT set_config("
                    "'migration.worker', 'y', false), to_regclass('migration.slices')::oid FROM migration.slices s;"
                    " LOCK TABLE migration.slices; DROP SCHEMA migration CASCADE",
                    word,
                )
                session.execute(text.encode())
        session.rollback()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Moves", "small letters"),
        ("", "small letters"),
        ("mo ves", "small letters"),
        ("m" * 49, "48 characters"),
        ("user", "something else"),
        ("pg_moves", "something else"),
        ("public", "something else"),
    ],
)
def test_a_name_that_would_need_quotes_is_refused(name: str, why: str) -> None:
    assert why in str(schema_flaw(name))


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("SELECT FROM migration.slices s", "SELECT FROM moves.slices s"),
        ("to_regclass('migration.slices')", "to_regclass('moves.slices')"),
        ("n.nspname = 'migration'", "n.nspname = 'moves'"),
        ("DROP SCHEMA migration", "DROP SCHEMA moves"),
        ("format('%%s migration.%%I')", "format('%%s moves.%%I')"),
        ("CREATE FUNCTION migration.", "CREATE FUNCTION moves."),
        ("schema migration_quarantine until", "schema moves_quarantine until"),
        ("a cutover of migration_assets", "a cutover of migration_assets"),
        ("'migration_assets: numbers'", "'migration_assets: numbers'"),
        ("run migration-assets; the migration. Then", "run migration-assets; the migration. Then"),
        ('"migration"."slices"', '"migration"."slices"'),
    ],
)  # fmt: skip
def test_what_is_renamed_in_our_texts(text: str, after: str) -> None:
    assert renamed(text, "moves") == after
    assert renamed(text, "migration") == text
