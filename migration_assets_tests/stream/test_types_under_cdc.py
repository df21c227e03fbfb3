"""Types that are altered on the legacy while the stream runs: named with what makes the base the same."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.stream_watch import View, evaluate
from migration_assets.postgres.catalogue import require_table
from migration_assets.readiness.rules import ReadinessPlan, Sides
from migration_assets.readiness.structure import examine_structure
from migration_assets.watch.look import LookLimits, observe_stream
from migration_assets_tests.ground import CALENDAR, Ground


@pytest.fixture
def moody(ground: Ground) -> Ground:
    """A column of an enum, one of a composite with another enum inside, and an array of the first."""
    made = ("CREATE TYPE inner_m AS ENUM ('x', 'y')", "CREATE TYPE place AS (n int, m inner_m)")
    ground.run(
        "legacy",
        "CREATE TYPE mood AS ENUM ('a', 'b', 'd')",
        *made,
        "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL, mood mood DEFAULT 'b', p place,"
        " many mood[])",
        "CREATE INDEX ON bookings (mood)",
        "INSERT INTO bookings SELECT n, '2024-04-02Z', 'a', '(1,x)', '{a,d}' FROM generate_series(1, 5) n",
    )
    ground.run("base", *made)
    ground.open()
    ground.copy(1)
    ground.streamed()
    return ground


def altered(ground: Ground) -> str:
    """What the alert says; readiness says the same."""
    sample = observe_stream(ground.databases, ground.spec, LookLimits(heartbeat_seconds=0.1))
    found = [one.what for one in evaluate(View(sample)).problems if one.code is ProblemCode.COLUMNS_DIFFER]
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        plan = ReadinessPlan(datetime(2024, 6, 1, tzinfo=UTC), timedelta(hours=24))
        described = (require_table(one, ground.spec.table, "legacy") for one in (legacy, base))
        blocked = examine_structure(Sides(legacy, base, ground.spec, CALENDAR, plan, *described))
    texts = [f"{one.evidence}; {one.remedy}" for one in blocked if one.code == "types_differ"]
    assert "; ".join(texts) == "".join(found)
    return "".join(found)


def run_remedy(ground: Ground, text: str) -> None:
    """As somebody pastes it."""
    with psycopg.connect(ground.databases.base_url, autocommit=True) as base:
        base.execute(text.partition("in the base: ")[2].encode())


def order(ground: Ground) -> tuple[object, object]:
    query = "SELECT array_agg(DISTINCT mood ORDER BY mood)::text, enum_range(NULL::mood)::text FROM bookings"
    return ground.ask("legacy", query)[0], ground.ask("base", query)[0]


@pytest.mark.long
def test_a_label_added_in_the_middle_is_added_there_by_the_remedy(moody: Ground) -> None:
    moody.run("legacy", "ALTER TYPE mood ADD VALUE 'c' BEFORE 'd'", "ALTER TYPE mood ADD VALUE 'b2' AFTER 'b'")
    what = altered(moody)
    assert "ADD VALUE 'b2' BEFORE 'd'; ALTER TYPE public.mood ADD VALUE 'c' BEFORE 'd';" in what
    run_remedy(moody, what)
    assert altered(moody) == ""
    moody.run("legacy", "UPDATE bookings SET mood = 'c', many = '{b2,c}' WHERE id = 2")
    moody.assert_same()
    one, other = order(moody)
    assert one == other


@pytest.mark.long
def test_labels_in_another_order_are_named_and_the_remedy_really_orders_them(moody: Ground) -> None:
    moody.run("legacy", "ALTER TYPE mood ADD VALUE 'c' BEFORE 'd'")
    moody.run("base", "ALTER TYPE mood ADD VALUE 'c'")  # the advice "make the same change", as somebody takes it
    moody.run("legacy", "UPDATE bookings SET mood = 'c' WHERE id = 2", "UPDATE bookings SET mood = 'd' WHERE id = 3")
    moody.drain()
    moody.validate(1)  # the values are the same
    what = altered(moody)
    assert "['a', 'b', 'c', 'd'] in the legacy, ['a', 'b', 'd', 'c'] in the base; the order" in what
    one, other = order(moody)
    assert one != other
    run_remedy(moody, what)
    assert altered(moody) == ""
    moody.run("legacy", "UPDATE bookings SET mood = 'b', many = '{c}' WHERE id = 4")
    moody.assert_same()
    one, other = order(moody)
    assert one == other
    assert moody.one("base", "INSERT INTO bookings VALUES (99, '2024-04-02Z') RETURNING mood::text") == "b"


@pytest.mark.long
def test_a_label_that_a_field_of_a_composite_lacks_is_named_with_its_statement(moody: Ground) -> None:
    moody.run("legacy", "ALTER TYPE inner_m ADD VALUE 'z'", "UPDATE bookings SET p = '(1,z)' WHERE id = 5")
    what = altered(moody)
    assert "ALTER TYPE public.inner_m ADD VALUE 'z';" in what
    run_remedy(moody, what)
    moody.assert_same()
    assert altered(moody) == ""
