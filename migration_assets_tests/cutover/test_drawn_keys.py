"""Sequences that are nobody's default are made on the base and go on there; the next keys are really drawn."""

from datetime import UTC, datetime, timedelta
from typing import LiteralString

import pytest

from migration_assets.domain.findings import Finding, Severity
from migration_assets.domain.states import CutoverError
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases
from migration_assets.readiness.rules import ReadinessPlan, Sides
from migration_assets.readiness.structure import examine_sequences
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import CALENDAR

PLAIN: LiteralString = "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL, note text)"
ROWS: LiteralString = (
    "INSERT INTO bookings (id, booked_at) SELECT n, '2024-04-01Z'::timestamptz + n * interval '1 h'"
    " FROM generate_series(1, 50) n"
)
# Made by hand on both sides: functions are not carried.
FUNCTIONS: tuple[LiteralString, ...] = (
    "CREATE FUNCTION inner_id() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN nextval('by_function'); END $$",
    "CREATE FUNCTION my_next_id() RETURNS bigint LANGUAGE sql AS 'SELECT inner_id()'",
    "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.t = nextval('by_trigger');RETURN NEW;END$$",
)
TRIGGER: LiteralString = "CREATE TRIGGER fill BEFORE INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION fill()"


def made(databases: Urls, *of_legacy: LiteralString, of_base: tuple[LiteralString, ...] = ()) -> CutoverGround:
    ground = CutoverGround(Databases(databases.legacy_url, databases.base_url))
    ground.run("legacy", *of_legacy)
    ground.run("base", *of_base)
    ground.streamed()
    return ground


def examined(ground: CutoverGround) -> list[Finding]:
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        plan = ReadinessPlan(datetime(2024, 6, 1, tzinfo=UTC), timedelta(hours=24))
        described = (require_table(one, ground.spec.table, "legacy") for one in (legacy, base))
        return examine_sequences(Sides(legacy, base, ground.spec, CALENDAR, plan, *described))


@pytest.mark.long
def test_a_sequence_that_a_column_owns_and_the_application_draws_from_goes_on_on_both_ways(databases: Urls) -> None:
    ground = made(
        databases, PLAIN, ROWS, "CREATE SEQUENCE bookings_id_seq OWNED BY bookings.id",
        "SELECT setval('bookings_id_seq', 50)",
    )  # fmt: skip
    insert: LiteralString = (
        "INSERT INTO bookings (id, booked_at) VALUES (nextval('bookings_id_seq'), '2024-05-05Z') RETURNING id"
    )
    assert [one.severity for one in examined(ground)] == [Severity.INFO]
    ground.cut(sequence_margin=10)
    assert ground.one("base", insert) == 61
    ground.back(sequence_margin=10)
    assert ground.one("legacy", insert) == 72
    # A base that was made before this was known lacks it: named, with what makes it; and no cutover begins.
    ground.run("base", "DROP SEQUENCE bookings_id_seq")
    missing = examined(ground)[0]
    assert "id draws from public.bookings_id_seq in the legacy, and from no sequence in the base" in missing.evidence
    with pytest.raises(CutoverError, match=r"column id has sequence public\.bookings_id_seq, and none on the other"):
        ground.cut()
    ground.run("base", missing.remedy.removeprefix("in the base: "))  # pyright: ignore[reportArgumentType]
    ground.cut(sequence_margin=10)
    assert ground.one("base", insert) == 83
    assert ground.one("base", "SELECT pg_get_serial_sequence('bookings', 'id')") == "public.bookings_id_seq"


@pytest.mark.long
def test_keys_drawn_by_functions_triggers_domains_and_two_at_once_go_on_on_the_base(databases: Urls) -> None:
    ground = made(
        databases,
        "CREATE SEQUENCE by_function; CREATE SEQUENCE by_trigger; CREATE SEQUENCE of_domain; CREATE SEQUENCE first;"
        " CREATE SEQUENCE second",
        *FUNCTIONS,
        "CREATE DOMAIN ticket AS bigint DEFAULT nextval('of_domain')",
        "CREATE TABLE bookings (id bigint PRIMARY KEY DEFAULT my_next_id(), booked_at timestamptz NOT NULL, t bigint,"
        " d ticket UNIQUE, two text DEFAULT nextval('first') || '-' || nextval('second'))",
        TRIGGER,
        "INSERT INTO bookings (booked_at) SELECT '2024-04-02Z' FROM generate_series(1, 40)",
        of_base=("SET check_function_bodies = off; " + "; ".join(FUNCTIONS),),
    )
    ground.run("base", TRIGGER)
    insert: LiteralString = "INSERT INTO bookings (booked_at) VALUES ('2024-05-05Z') RETURNING id, t, d, two"
    by_code = {one.code: one for one in examined(ground)}
    assert by_code["trigger_sequence"].severity is Severity.WARNING
    assert "public.by_trigger is drawn from by trigger function public.fill()" in by_code["trigger_sequence"].evidence
    ground.cut(sequence_margin=10)
    assert ground.ask("base", insert) == [(51, 51, 51, "51-51")]
    ground.back(sequence_margin=10)
    assert ground.ask("legacy", insert) == [(62, 62, 62, "62-62")]
    ground.drain()
    ground.equal()


@pytest.mark.long
def test_a_key_that_nobody_can_foresee_is_drawn_and_refused_where_a_row_has_it(databases: Urls) -> None:
    """The name of the sequence is put together at run time, and keys are counted in a table."""
    hidden: LiteralString = (
        "CREATE FUNCTION hidden_id() RETURNS bigint LANGUAGE plpgsql AS"
        " $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT nextval(''hid' || 'den'')' INTO n; RETURN n; END $$"
    )
    counted: tuple[LiteralString, ...] = (
        "CREATE TABLE counted (n bigint)", "INSERT INTO counted VALUES (0)",
        "CREATE FUNCTION count_on() RETURNS bigint LANGUAGE sql AS 'UPDATE counted SET n = n + 1 RETURNING n'",
    )  # fmt: skip
    ground = made(
        databases, "CREATE SEQUENCE hidden", hidden, *counted,
        "CREATE TABLE bookings (id bigint PRIMARY KEY DEFAULT hidden_id(), booked_at timestamptz NOT NULL,"
        " n bigint UNIQUE DEFAULT count_on())",
        "INSERT INTO bookings (booked_at) SELECT '2024-04-02Z' FROM generate_series(1, 40)",
        of_base=("CREATE SEQUENCE hidden", hidden, *counted),
    )  # fmt: skip
    unknown = next(one for one in examined(ground) if one.code == "unknown_sequence")
    assert (unknown.subject, unknown.acceptable) == ("public.hidden_id()", True)
    with pytest.raises(CutoverError, match="next key of id on the other side is 1, and a row has it already"):
        ground.cut()
    assert ground.charge() == "legacy"
    ground.run("base", "SELECT setval('hidden', 40)")
    with pytest.raises(CutoverError, match="next key of n on the other side is 1, and a row has it already"):
        ground.cut()
    ground.run("base", "UPDATE counted SET n = 40")
    ground.cut()
    assert ground.one("base", "SELECT n FROM counted") == 40, "what was drawn for a trial is rolled back"
    ground.one("base", "INSERT INTO bookings (booked_at) VALUES ('2024-05-05Z') RETURNING id")


_QUOTING: LiteralString = (
    "CREATE OR REPLACE FUNCTION public.from_table() RETURNS bigint LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'a guest''s name'; END $$"
)


@pytest.mark.long
def test_a_default_that_does_not_work_on_the_base_is_refused_before_it_is_opened(databases: Urls) -> None:
    from_table: LiteralString = (
        "CREATE FUNCTION from_table() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT n FROM ids); END $$"
    )
    ground = made(
        databases, "CREATE TABLE ids (n bigint)", "INSERT INTO ids VALUES (1000)",
        from_table,
        "CREATE TABLE bookings (id bigint PRIMARY KEY DEFAULT from_table(), booked_at timestamptz NOT NULL)",
        ROWS,
        of_base=(from_table,),
    )  # fmt: skip
    with ground.databases.session("base", "test") as base:
        base.execute(_QUOTING)
    with pytest.raises(CutoverError, match="cannot be drawn on the other side: RaiseException") as caught:
        ground.cut()
    assert "a guest's name" not in str(caught.value), "a function's own words may be values"
    ground.run("base", "DROP FUNCTION public.from_table() CASCADE", from_table)
    ground.run("base", "ALTER TABLE bookings ALTER COLUMN id SET DEFAULT from_table()")
    with pytest.raises(CutoverError, match='cannot be drawn on the other side: relation "ids" does not exist'):
        ground.cut()
    ground.run("legacy", "INSERT INTO bookings VALUES (77, '2024-05-05Z')")
