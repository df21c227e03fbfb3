"""A repair mends exactly what differs and can be taken back, whatever the rows are made of."""

import threading
import tracemalloc
from collections.abc import Generator
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.errors import LedgerError, SliceMismatchError
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_spec import TableSpec
from migration_assets.proof import repair as of_slices
from migration_assets.stream.true_up import TruedUp, true_up
from migration_assets_tests.clones import Clones
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import SPEC, Ground, validation_of, wait_for

_DAMAGE: tuple[LiteralString, ...] = (
    "UPDATE bookings SET guests = -1, note = NULL WHERE id IN (1, 2)",
    "DELETE FROM bookings WHERE id IN (3, 4, 5)",
    "INSERT INTO bookings (id, booked_at, price) VALUES (9001, '2024-04-03Z', 1.500)",
)


@pytest.fixture
def streamed(clones: Clones) -> Generator[Ground]:
    with clones.streamed(364) as databases:
        yield Ground(databases)


@pytest.fixture
def damaged(streamed: Ground) -> Ground:
    """In W01: two rows changed, three lost, one too many."""
    streamed.run("base", *_DAMAGE)
    return streamed


def _shape(ground: Ground) -> tuple[object, object]:
    """All relations and rows, without the ledger's."""
    relations, _, rows = ground.base_state()
    return relations, rows


def test_a_dry_run_says_what_it_would_do_and_does_not_do_it(damaged: Ground) -> None:
    before = _shape(damaged)
    dry = damaged.repair(dry_run=True)
    assert (dry.dry_run, dry.repair_id, dry.legacy == dry.base) == (True, None, False)
    assert str(dry.differences) == "3 missing, 1 extra, 2 changed"
    assert len(dry.differences.sample) == 6
    assert _shape(damaged) == before
    assert damaged.ask("base", "SELECT 1 FROM migration.repairs") == []
    assert damaged.one("base", "SELECT count(*) FROM migration.cuts WHERE kind = 'pause'") == 0


def test_a_repair_makes_the_slice_equal_and_keeps_what_was_there(damaged: Ground) -> None:
    done = damaged.repair()
    assert (done.dry_run, str(done.differences)) == (False, "3 missing, 1 extra, 2 changed")
    assert done.legacy == done.base
    assert done.cut.apply_held_ms > 0
    damaged.assert_same()
    record = damaged.record()
    assert record.state is SliceState.VALIDATED
    assert record.changed_at == validation_of(record).at
    rows = (
        "SELECT kind, array_agg(key[1] ORDER BY key[1]), count(before) FROM migration.repaired_rows"
        " GROUP BY kind ORDER BY kind"
    )
    assert damaged.ask("base", rows) == [
        ("changed", ["1", "2"], 2),
        ("extra", ["9001"], 1),
        ("missing", ["3", "4", "5"], 0),
    ]
    repairs = "SELECT id, week, marker, missing, extra, changed, undone_at, run_id FROM migration.repairs"
    assert damaged.ask("base", repairs) == [(done.repair_id, "W01", done.cut.marker, 3, 1, 2, None, "test")]
    assert damaged.attempts() == [("join", "succeeded"), ("repair", "succeeded")]


def test_a_repair_of_nothing_changes_nothing_and_has_nothing_to_undo(streamed: Ground) -> None:
    before, changed_at = _shape(streamed), streamed.record().changed_at
    done = streamed.repair()
    assert (done.repair_id, done.differences.rows) == (None, 0)
    assert _shape(streamed) == before
    assert streamed.record().changed_at == changed_at
    assert streamed.ask("base", "SELECT 1 FROM migration.repairs UNION ALL SELECT 1 FROM migration.repaired_rows") == []


def test_a_repair_that_is_undone_leaves_exactly_what_was_there_and_is_not_undone_twice(damaged: Ground) -> None:
    before = damaged.contents("base")
    done = damaged.repair()
    undone = damaged.undo(done.repair_id)
    assert damaged.contents("base") == before
    assert str(undone.differences) == "3 missing, 1 extra, 2 changed"
    assert damaged.record().state is SliceState.STREAMING
    with pytest.raises(LedgerError, match=f"repair {done.repair_id} was undone at"):
        damaged.undo(done.repair_id)
    with pytest.raises(LedgerError, match="there is no repair 4711"):
        damaged.undo(4711)
    assert damaged.contents("base") == before
    with pytest.raises(SliceMismatchError):
        damaged.validate()
    assert damaged.repair().differences.rows == 6
    damaged.assert_same()


def test_a_repair_that_copies_a_week_again_keeps_and_puts_back_the_rows_that_differed_alone(damaged: Ground) -> None:
    damaged.run("base", "UPDATE bookings SET guests = -7 WHERE booked_at < '2024-04-05Z' AND id > 2")
    before = damaged.contents("base")
    place = "SELECT ctid::text FROM bookings WHERE id = 97"  # of W01's last day
    place_before = damaged.one("base", place)
    done = damaged.repair()
    assert done.differences.changed > 10
    assert done.legacy == done.base
    damaged.assert_same()
    assert damaged.one("base", place) != place_before, "also rows that were right were written again"
    kept = "SELECT count(*), count(before) FROM migration.repaired_rows"
    assert damaged.ask("base", kept) == [(done.differences.rows, done.differences.rows - done.differences.missing)]
    damaged.undo(done.repair_id)
    assert damaged.contents("base") == before
    damaged.repair()
    damaged.assert_same()


_MEDDLERS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("BEFORE INSERT", "NEW.note := 'spoiled'; RETURN NEW"),
    ("BEFORE INSERT", "IF NEW.id = 1 THEN RETURN NULL; END IF; RETURN NEW"),
    ("BEFORE DELETE", "IF OLD.id = 4 THEN RETURN NULL; END IF; RETURN OLD"),
)


def test_an_undo_holds_some_rows_at_once_however_many_it_puts_back(
    streamed: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_slices, "_IMAGES_AT_ONCE", 2)
    in_week: LiteralString = "WHERE booked_at < '2024-04-08Z'"
    streamed.run("base", f"UPDATE bookings SET note = repeat('x', 200000) {in_week}")
    size = streamed.one("base", f"SELECT sum(length(note)) FROM bookings {in_week}")
    damaged = streamed.contents("base")
    repaired = streamed.repair()
    tracemalloc.start()
    try:
        streamed.undo(repaired.repair_id)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 2
    assert streamed.contents("base") == damaged


def test_an_undo_that_something_changes_on_its_way_in_is_none(damaged: Ground) -> None:
    before = damaged.contents("base")
    done = damaged.repair()
    whole = damaged.contents("base")
    for when, body in _MEDDLERS:
        damaged.run(
            "base",
            "CREATE OR REPLACE FUNCTION meddles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + body + "; END $$",
            "CREATE TRIGGER meddles " + when + " ON bookings FOR EACH ROW EXECUTE FUNCTION meddles()",
            "ALTER TABLE bookings ENABLE ALWAYS TRIGGER meddles",
        )
        with pytest.raises(LedgerError, match=f"what repair {done.repair_id} changed was not put back as it was"):
            damaged.undo(done.repair_id)
        damaged.run("base", "DROP TRIGGER meddles ON bookings")
        assert damaged.contents("base") == whole
    damaged.undo(done.repair_id)
    assert damaged.contents("base") == before


def test_an_undo_puts_back_what_the_legacy_has_changed_since_and_says_so(damaged: Ground) -> None:
    done = damaged.repair()
    damaged.run(
        "legacy",
        "UPDATE bookings SET guests = 77 WHERE id IN (1, 3)",
        "DELETE FROM bookings WHERE id IN (2, 4)",
        "INSERT INTO bookings (id, booked_at) VALUES (9001, '2024-04-03Z')",
    )
    undone = damaged.undo(done.repair_id)
    assert undone.legacy != undone.base
    rows = "SELECT id, guests FROM bookings WHERE id IN (1, 2, 3, 4, 5, 9001) ORDER BY id"
    assert damaged.ask("base", rows) == [(1, -1), (2, -1), (9001, None)]
    damaged.repair()
    damaged.assert_same()


_OTHERS: tuple[LiteralString, ...] = (
    "CREATE TABLE payments (booking bigint, at timestamptz, once_booking bigint, once_at timestamptz)",
    "ALTER TABLE payments ADD FOREIGN KEY (booking, at) REFERENCES bookings ON DELETE CASCADE ON UPDATE CASCADE",
    "ALTER TABLE payments ADD FOREIGN KEY (once_booking, once_at) REFERENCES bookings ON DELETE SET NULL",
    "INSERT INTO payments SELECT id, booked_at, id, booked_at FROM bookings WHERE id < 6",
    "CREATE TABLE heard (what text)",
    """CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.heard VALUES (TG_OP); RETURN NULL; END $$""",
    "CREATE TRIGGER hear AFTER INSERT OR UPDATE OR DELETE ON bookings FOR EACH ROW EXECUTE FUNCTION hear()",
    "CREATE TRIGGER hear_leaf AFTER INSERT OR DELETE ON bookings_fy25_q2_w01 FOR EACH ROW EXECUTE FUNCTION hear()",
)


def test_a_repair_its_undo_and_a_rebuild_set_nothing_else_going(streamed: Ground) -> None:
    """As the stream would not have: rows of other tables stay, whatever a key says, and no trigger acts."""
    streamed.run("base", *_OTHERS)
    before = streamed.ask("base", "SELECT * FROM payments ORDER BY booking")
    streamed.run("base", "UPDATE bookings SET guests = -1 WHERE id = 1", "TRUNCATE heard")
    done = streamed.repair()
    streamed.undo(done.repair_id)
    streamed.stream(rebuild=True)
    assert [outcome for _, outcome in streamed.attempts()] == ["succeeded"] * 4
    assert streamed.ask("base", "SELECT * FROM payments ORDER BY booking") == before
    assert streamed.ask("base", "SELECT what FROM heard") == []
    streamed.assert_same()


def test_an_undo_into_a_table_that_was_altered_is_refused_without_a_word_of_the_rows(damaged: Ground) -> None:
    done = damaged.repair()
    before = damaged.contents("base")
    damaged.run("base", "ALTER TABLE bookings ADD CHECK (guests <> -1)")
    with pytest.raises(LedgerError, match=r"put back as it was: CheckViolation \(bookings_guests_check\)") as no:
        damaged.undo(done.repair_id)
    assert "-1" not in str(no.value)
    assert damaged.contents("base") == before
    assert damaged.stream_record().status == "live"


_ODD_TABLE = """
CREATE TYPE public.mood AS ENUM ('bad', 'it''s, "fine"');
CREATE TYPE public.pair AS (a integer, b text);
CREATE TABLE bookings (
    id bigint GENERATED ALWAYS AS IDENTITY, part text, booked_at timestamptz NOT NULL,
    price numeric, exact numeric(12, 4), doc jsonb, raw json, tags text[], grid integer[][], moods mood[],
    one public.pair, pairs public.pair[], note text, bytes bytea, stay interval, score float8, period tstzrange,
    padded char(9), late date,
    len integer GENERATED ALWAYS AS (length(note)) STORED,
    PRIMARY KEY (part, id)
);
"""
_ODD_ROWS: LiteralString = r"""
INSERT INTO bookings (part, booked_at, price, exact, doc, raw, tags, grid, moods, one, pairs, note, bytes, stay, score,
                      period, padded, late)
SELECT E'p,"' || n, '2024-04-02Z', 1.10 * n * 10.00, n,
    jsonb_build_object('n', n, 'x', 1.10, 't', E'tab\t"q" \\'), '{"b": 1,  "a":[ ]}',
    ARRAY['a,b', NULL, '"', '', 'NULL', E'new\nline', '{}', E'\\'], '[2:3][0:1]={{1,2},{3,4}}',
    ARRAY['it''s, "fine"', NULL]::mood[],
    (n, E'(a,"b")\n')::public.pair, ARRAY[(1, NULL)::public.pair, NULL, (2, '')::public.pair],
    (ARRAY[E'a''b"c\\d', E'line\nbreak\r\n\t', '', NULL, '{"x"}', '(1,2)', 'ünïcödé 🛎️', repeat('x', 9000)])[1 + n % 8],
    decode(md5(n::text), 'hex'),
    n * interval '1 mon 25 h',
    (ARRAY['NaN', '-0', 'infinity', '0.1'])[1 + n % 4]::float8, tstzrange('2024-01-01Z', NULL), 'p' || n,
    (ARRAY['infinity', '0044-03-15 BC', '2024-02-29'])[1 + n % 3]::date
FROM generate_series(1, 40) n
"""


@pytest.mark.long
def test_undo_gives_back_every_byte_of_rows_of_odd_types(ground: Ground) -> None:
    ground.run("base", "CREATE TYPE public.pair AS (a integer, b text)")
    ground.run("legacy", _ODD_TABLE, _ODD_ROWS)
    ground.streamed()
    ground.assert_same()
    with psycopg.connect(ground.databases.base_url, autocommit=True) as base:
        base.execute(
            "UPDATE bookings SET price = price * 1.000, doc = doc || '{\"x\": 1.1}', note = note || ' '"
            " WHERE id % 2 = 0"
        )
        base.execute(
            "UPDATE bookings SET tags = NULL, grid = '{}', pairs = NULL, one = NULL WHERE id % 2 = 1 AND id < 20"
        )
        base.execute("DELETE FROM bookings WHERE id > 36")
        base.execute(
            "INSERT INTO bookings (part, id, booked_at, note) OVERRIDING SYSTEM VALUE VALUES ('', 99,"
            " '2024-04-03Z', E'\"')"
        )
    before = ground.contents("base")
    done = ground.repair()
    assert (done.differences.missing, done.differences.extra) == (4, 1)
    assert done.differences.changed > 20
    ground.assert_same()
    ground.undo(done.repair_id)
    assert ground.contents("base") == before
    ground.repair()
    ground.run("legacy", "UPDATE bookings SET note = note || '!', moods = NULL")
    ground.assert_same()


@pytest.mark.long
def test_columns_may_have_the_names_that_our_queries_use(ground: Ground) -> None:
    names = [
        "t",
        "k",
        "h",
        "b",
        "k1",
        "t1",
        "hashed",
        "texts",
        "one",
        "image",
        "images",
        "before",
        "keys",
        "row",
        "bookings",
    ]
    spec = TableSpec(SPEC.table, "t")
    ground = replace(ground, spec=spec)
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in names[1:])
    values = sql.SQL(", ").join(sql.SQL("n::text") for _ in names[1:])
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy:
        legacy.execute(
            sql.SQL("CREATE TABLE bookings (t timestamptz NOT NULL, {}, PRIMARY KEY (k, h, b))").format(columns)
        )
        legacy.execute(
            sql.SQL("INSERT INTO bookings SELECT '2024-04-02Z', {} FROM generate_series(1, 9) n").format(values)
        )
    ground.streamed()
    ground.run(
        "base",
        "UPDATE bookings SET before = 'x', one = NULL WHERE k < '5'",
        "UPDATE bookings SET k = 'z' WHERE k = '9'",
    )
    damaged = ground.contents("base")
    dry = ground.repair(dry_run=True)
    assert {difference.columns for difference in dry.differences.sample} == {(), ("one", "before")}
    repaired = ground.repair()
    assert str(repaired.differences) == str(dry.differences) == "1 missing, 1 extra, 4 changed"
    ground.assert_same()
    ground.undo(repaired.repair_id)
    assert ground.contents("base") == damaged


def test_a_trigger_that_spoils_the_repair_undoes_it_and_the_stream_goes_on(damaged: Ground) -> None:
    damaged.spoil()
    before = damaged.base_state()
    with pytest.raises(SliceMismatchError, match="triggers"):
        damaged.repair()
    assert damaged.base_state() == before
    assert damaged.attempts()[-1] == ("repair", "failed")
    assert damaged.ask("base", "SELECT 1 FROM migration.repairs UNION ALL SELECT 1 FROM migration.repaired_rows") == []
    assert damaged.stream_record().status == "live"
    damaged.run("base", "DROP TRIGGER spoil ON bookings")
    damaged.run("legacy", "UPDATE bookings SET guests = guests + 1 WHERE id > 10")
    damaged.repair()
    damaged.assert_same()


def test_a_repair_whose_pause_was_lost_does_not_write_over_what_came_since(
    damaged: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session is ended, the lock of the stream with it: to the next step that pause looks like a dead one's."""
    others: list[threading.Thread] = []

    def lose_the_pause(*arguments: Any, **more: Any) -> TruedUp:
        damaged.ask("base", "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE '%:pause'")  # fmt: skip
        others.append(threading.Thread(target=damaged.validate, args=(5,)))
        others[0].start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%W05:validate:cut'"
            " AND wait_event_type = 'Lock'"
        )
        wait_for(
            lambda: not others[0].is_alive() or damaged.one("base", waiting), "the other step waits, or is through"
        )
        damaged.run("legacy", "UPDATE bookings SET guests = 50 WHERE id = 1", "DELETE FROM bookings WHERE id = 2")
        if not others[0].is_alive():
            damaged.drain()
        return true_up(*arguments, **more)

    monkeypatch.setattr("migration_assets.proof.repair.true_up", lose_the_pause)
    with pytest.raises(psycopg.OperationalError):
        damaged.repair()
    others[0].join(patience(30))
    assert damaged.stream_record().status == "live"
    damaged.assert_same()


@pytest.mark.long
def test_a_repair_while_writers_write_loses_none_of_their_changes(damaged: Ground) -> None:
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(damaged.databases.legacy_url, autocommit=True) as legacy:
            turn = 0
            while not stop.is_set():
                turn += 1
                legacy.execute("UPDATE bookings SET guests = guests + 1 WHERE id %% 9 = %s", [turn % 9])
                legacy.execute("INSERT INTO bookings (id, booked_at) VALUES (%s, '2024-04-03Z')", [20_000 + turn])
                legacy.execute("DELETE FROM bookings WHERE id = %s", [20_000 + turn - 30])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            damaged.repair()
            damaged.validate()
            # One row a statement: one that holds several can deadlock with the apply worker, and may be the victim.
            with psycopg.connect(damaged.databases.base_url, autocommit=True) as base:
                for key in range(1, 10):
                    base.execute("UPDATE bookings SET guests = -5 WHERE id = %s", [key])
        damaged.repair()
    finally:
        stop.set()
        writer.join()
    damaged.repair()
    damaged.assert_same()
