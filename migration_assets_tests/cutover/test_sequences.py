"""The first inserts after a cutover, and after a rollback, get keys that nobody had, whatever sequence gives them."""

from typing import Any, LiteralString

import psycopg
import pytest

from migration_assets.cutover.sequences import SequenceState, advance_sequences, next_start
from migration_assets.domain.states import CutoverError, SideName
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.ordeal import settle_down

# Column, its sequence's options, and whether its keys are unique for ever.
KINDS: dict[str, tuple[LiteralString, bool]] = {
    "always_id": ("GENERATED ALWAYS AS IDENTITY", True),
    "serial_id": ("serial", True),
    "by_ten": ("INCREMENT 10 START 7", True),
    "downward": ("INCREMENT -1", True),
    "cached": ("CACHE 50", True),
    "shared": ("", True),
    "cycling": ("MAXVALUE 30 CYCLE", False),
}


@pytest.fixture
def counted(databases: Urls) -> CutoverGround:
    """Every kind of sequence fills a column; 91 rows."""
    ground = CutoverGround(Databases(databases.legacy_url, databases.base_url))
    ground.fill(91)
    ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), 91)")
    for column, (options, _) in KINDS.items():
        if options.startswith("GENERATED"):
            do(ground, "legacy", f"ALTER TABLE bookings ADD COLUMN {column} bigint {options}")
        elif options == "serial":
            do(ground, "legacy", f"ALTER TABLE bookings ADD COLUMN {column} serial")
        else:
            do(ground, "legacy", f"CREATE SEQUENCE public.{column}_s {options}")
            do(ground, "legacy", f"ALTER TABLE bookings ADD COLUMN {column} bigint DEFAULT nextval('{column}_s')")
    ground.run("legacy", "CREATE TABLE public.other (key bigint DEFAULT nextval('public.shared_s'), note text)")
    ground.streamed()
    return ground


def do(ground: CutoverGround, side: SideName, statement: str) -> None:
    with psycopg.connect(ground.databases.url(side), autocommit=True) as connection:
        connection.execute(statement.encode())


def insert(ground: CutoverGround, side: SideName, connection: psycopg.Connection[Any] | None = None) -> dict[str, int]:
    """Every column's new key."""
    names = ["id", *KINDS]
    query = f"INSERT INTO bookings (booked_at) VALUES ('2024-05-01Z') RETURNING {', '.join(names)}"
    if connection is not None:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
    else:
        row = ground.ask(side, query)[0]  # pyright: ignore[reportArgumentType]
    return dict(zip(names, row, strict=True))


def require_unique(ground: CutoverGround) -> None:
    settle_down(ground)
    ground.equal()
    for column in ["id", *(name for name, (_, unique) in KINDS.items() if unique)]:
        for side in ("legacy", "base"):
            query = f"SELECT count(*) - count(DISTINCT {column}) FROM bookings"
            assert ground.one(side, query) == 0, f"{column} has keys twice on the {side}"  # pyright: ignore[reportArgumentType]


def test_every_kind_of_sequence_goes_on_on_the_other_side(counted: CutoverGround) -> None:
    ground = counted
    with (
        psycopg.connect(ground.databases.legacy_url, autocommit=True) as pool_of_legacy,
        psycopg.connect(ground.databases.base_url, autocommit=True) as pool_of_base,
    ):
        before = insert(ground, "legacy", pool_of_legacy)
        ground.ask("legacy", "INSERT INTO other (note) VALUES ('x') RETURNING 1")
        ground.cut(sequence_margin=10)
        first = insert(ground, "base", pool_of_base)
        assert first["id"] == before["id"] + 11
        assert first["always_id"] == before["always_id"] + 11
        assert first["by_ten"] == before["by_ten"] + 110
        assert first["downward"] == before["downward"] - 11
        # Two sessions fetched 50 each for the 91 rows, a third one's 49 lie in it still.
        assert first["cached"] == 150 + 11
        assert first["shared"] == before["shared"] + 12
        assert first["cycling"] == (before["cycling"] + 10) % 30 + 1
        insert(ground, "base")
        ground.back(sequence_margin=10)
        after = insert(ground, "legacy")
        assert after["downward"] < first["downward"]
        assert after["by_ten"] > first["by_ten"]
        # Sessions that were open all the time still have cached keys; nobody else ever gets those.
        insert(ground, "legacy", pool_of_legacy)
        ground.cut(sequence_margin=10)
        insert(ground, "base", pool_of_base)
        insert(ground, "base")
        ground.back(sequence_margin=10)
        insert(ground, "legacy", pool_of_legacy)
        insert(ground, "legacy")
    require_unique(ground)


@pytest.mark.long
def test_keys_that_an_application_chose_by_itself_are_left_out(ground: CutoverGround) -> None:
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (5000, '2024-05-01Z')")
    ground.cut()
    assert ground.insert("base") == 5101
    ground.run("base", "INSERT INTO bookings (id, booked_at) VALUES (9000, '2024-05-02Z')")
    ground.back()
    assert ground.insert("legacy") == 9101


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ("SET INCREMENT BY -1 SET MINVALUE -100000 SET MAXVALUE 10000 RESTART WITH -1", -5101),
        # The keys of one that cycles come again by design: that a row has the next one stops nobody.
        ("SET MINVALUE 1 SET MAXVALUE 950 SET CYCLE", None),
    ],
)
def test_keys_that_count_down_or_come_again(ground: CutoverGround, options: str, first: int | None) -> None:
    for side in ("legacy", "base"):
        do(ground, side, f"ALTER TABLE bookings ALTER COLUMN id {options}")
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (-5000, '2024-05-01Z')")
    assert ground.cut().outcome == "succeeded"
    if first is not None:
        assert ground.insert("base") == first


_DRAWN: tuple[LiteralString, ...] = (
    "CREATE SEQUENCE hidden",
    "CREATE FUNCTION hidden_id() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval(('hid' || 'den')::regclass) $$",
    "CREATE TABLE bookings (id bigint PRIMARY KEY DEFAULT hidden_id(), booked_at timestamptz NOT NULL)",
)


@pytest.mark.parametrize("side", ["legacy", "base"])
def test_a_next_key_that_a_row_of_one_side_alone_has_is_refused(databases: Urls, side: SideName) -> None:
    """A week that left the base has its rows on the legacy alone; one that was born in the base, there."""
    ground = CutoverGround(Databases(databases.legacy_url, databases.base_url))
    ground.run("legacy", *_DRAWN)
    ground.run("base", *_DRAWN)
    ground.run(side, "INSERT INTO bookings VALUES (3, '2024-05-01Z')")
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        table = ground.spec.table
        both = require_table(legacy, table, "legacy"), require_table(base, table, "base")
        with pytest.raises(CutoverError, match="next key of id on the other side is 3, and a row has it already"):
            advance_sequences(legacy, base, table, *both, margin=0)


@pytest.mark.parametrize(("end", "enough"), [(1010, False), (1011, True)])
def test_a_sequence_that_has_no_next_key_is_refused(ground: CutoverGround, end: int, enough: bool) -> None:
    """910 keys were given and 100 are left out: the next one is 1011."""
    do(ground, "base", f"ALTER TABLE bookings ALTER COLUMN id SET MAXVALUE {end}")
    if enough:
        ground.cut()
        assert ground.insert("base") == 1011
        return
    with pytest.raises(CutoverError, match="would be exhausted: it would be set to 1010, and ends at 1010") as caught:
        ground.cut()
    assert "MIGRATION_CUTOVER_SEQUENCE_MARGIN" in str(caught.value)
    assert ground.insert("legacy") == 911
    ground.cut(sequence_margin=10)
    assert ground.insert("base") == 922


def test_sequences_that_count_in_different_directions_are_refused(ground: CutoverGround) -> None:
    ground.run("base", "ALTER TABLE bookings ALTER COLUMN id SET INCREMENT -1 SET MINVALUE -100")
    with pytest.raises(CutoverError, match="steps by -1, and by 1 on the other side"):
        ground.cut()
    ground.insert("legacy")


def state(last: int, increment: int = 1, least: int = 1, most: int = 100, *, cycles: bool = False) -> SequenceState:
    return SequenceState(last, increment, least, most, cycles)


@pytest.mark.parametrize(
    ("here", "there", "margin", "value"),
    [
        (state(5), state(1), 10, 15),
        (state(5), state(50), 10, 50),
        (state(5), state(20, least=20), 0, 20),
        (state(-5, -2, -100, -1), state(-1, -2, -100, -1), 10, -25),
        (state(-5, -2, -100, -1), state(-60, -2, -100, -1), 10, -60),
        (state(25, most=30, cycles=True), state(1, most=30, cycles=True), 10, 5),
        (state(30, most=30, cycles=True), state(29, most=30, cycles=True), 0, 30),
        (state(3, -1, 1, 30, cycles=True), state(1, -1, 1, 30, cycles=True), 10, 23),
    ],
)
def test_where_the_target_begins(here: SequenceState, there: SequenceState, margin: int, value: int) -> None:
    assert next_start(here, there, here.last, margin) == value
