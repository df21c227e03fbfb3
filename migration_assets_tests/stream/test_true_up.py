"""A true-up finds every differing row by its key, and makes the base's rows those of the legacy, byte for byte."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.fingerprint import Differences, Kind
from migration_assets.postgres.sessions import Connected
from migration_assets.stream import buckets, differences
from migration_assets.stream import true_up as applying
from migration_assets.stream.buckets import SliceRows, compare, same_table, slice_rows
from migration_assets.stream.differences import look
from migration_assets.stream.true_up import TruedUp, true_up
from migration_assets_tests.ground import Ground, week

_IN_WEEK: LiteralString = "booked_at < '2024-04-08Z'"


@pytest.fixture
def copied(ground: Ground) -> Ground:
    """Two weeks copied, 70 rows each; both sides stand still."""
    ground.fill().open()
    ground.copy(1)
    ground.copy(2)
    return ground


@contextmanager
def sides(ground: Ground) -> Generator[tuple[Connected, Connected, SliceRows]]:
    """As the product calls it: the legacy in a snapshot, the base in a transaction that commits at the end."""
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        legacy.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with legacy.transaction(), base.transaction():
            yield legacy, base, slice_rows(ground.plan, same_table(ground.plan, legacy, base), ground.record(1))


def found(ground: Ground) -> Differences:
    """What is said to differ in W01; changes nothing."""
    with sides(ground) as (legacy, base, rows):
        return look(legacy, base, rows, compare(legacy, base, rows))


def made_true(ground: Ground, *, recopy_percent: float = 100.0) -> TruedUp:
    with sides(ground) as (legacy, base, rows):
        return true_up(legacy, base, rows, week(1), None, recopy_percent=recopy_percent)


def reads(legacy: Connected) -> int:
    """How often the table, or an index of it, was read in the transaction."""
    row = legacy.execute(
        "SELECT sum(pg_stat_get_xact_numscans(o)) FROM (SELECT indexrelid AS o FROM pg_index WHERE indrelid ="
        " 'public.bookings'::regclass UNION ALL SELECT 'public.bookings'::regclass) AS parts"
    ).fetchone()
    assert row is not None
    return int(row[0])


def counts(of: Differences) -> tuple[int, int, int]:
    return of.missing, of.extra, of.changed


_ROW = "INSERT INTO bookings (id, booked_at) VALUES (99001, '2024-04-03Z')"
_DAMAGES: dict[LiteralString, tuple[LiteralString, tuple[int, int, int]]] = {
    "nothing": ("SELECT 1", (0, 0, 0)),
    "one lost": (f"DELETE FROM bookings WHERE id = (SELECT min(id) FROM bookings WHERE {_IN_WEEK})", (1, 0, 0)),
    "all lost": (f"DELETE FROM bookings WHERE {_IN_WEEK}", (70, 0, 0)),
    "one too many": (_ROW, (0, 1, 0)),
    "value": (f"UPDATE bookings SET guests = guests + 1 WHERE id % 9 = 1 AND {_IN_WEEK}", (0, 0, 9)),
    "null": ("UPDATE bookings SET note = NULL WHERE id = 92", (0, 0, 1)),
    "empty text": ("UPDATE bookings SET note = '' WHERE id = 92", (0, 0, 1)),
    "scale": ("UPDATE bookings SET price = price * 1.000 WHERE id = 92", (0, 0, 1)),
    "all rows": (f"UPDATE bookings SET guests = guests + 1 WHERE {_IN_WEEK}", (0, 0, 70)),
    "microsecond": ("UPDATE bookings SET booked_at = booked_at + interval '1 microsecond' WHERE id = 92", (1, 1, 0)),
    "into the next week": ("UPDATE bookings SET booked_at = booked_at + interval '7 days' WHERE id = 92", (1, 0, 0)),
    "another key": ("UPDATE bookings SET id = 99002 WHERE id = 92", (1, 1, 0)),
    "twice in the week": (
        "INSERT INTO bookings SELECT id, booked_at + interval '1 s', guests, price, note FROM bookings WHERE id = 92",
        (0, 1, 0),
    ),
    "two swapped a value": (
        "UPDATE bookings b SET note = o.note FROM bookings o WHERE b.id + o.id = 92 + 93 AND b.id IN (92, 93)",
        (0, 0, 2),
    ),
    "two swapped keys": (
        (
            "UPDATE bookings SET id = 92 + 93 - id + 99000 WHERE id IN (92, 93); UPDATE bookings SET id = id"
            " - 99000 WHERE id > 99000"
        ),
        (2, 2, 0),
    ),
    "everything at once": (
        (
            f"DELETE FROM bookings WHERE id IN (1, 2, 3); {_ROW}; UPDATE bookings SET guests = -1 WHERE id IN"
            " (92, 93, 183, 184)"
        ),
        (3, 1, 4),
    ),
}


def test_each_kind_of_damage_is_counted_exactly_and_made_true(copied: Ground) -> None:
    good, other = copied.contents("base", 1), copied.contents("base", 2)
    for damage, (statement, expected) in _DAMAGES.items():
        copied.run("base", statement)
        damaged = copied.contents("base")
        assert counts(found(copied)) == expected, damage
        assert copied.contents("base") == damaged, damage
        done = made_true(copied)
        assert counts(done.differences) == expected, damage
        assert done.legacy == done.base
        assert copied.contents("base", 1) == good, damage
        if damage == "into the next week":
            copied.run("base", "DELETE FROM bookings WHERE id = 92 AND booked_at >= '2024-04-08Z'")
        assert copied.contents("base", 2) == other, damage


@pytest.mark.parametrize("emptied", ["legacy", "base"])
def test_a_side_without_rows_is_no_special_case(copied: Ground, emptied: str) -> None:
    copied.run("legacy" if emptied == "legacy" else "base", f"DELETE FROM bookings WHERE {_IN_WEEK}")
    assert counts(found(copied)) == ((0, 70, 0) if emptied == "legacy" else (70, 0, 0))
    assert made_true(copied).base.rows == (0 if emptied == "legacy" else 70)
    assert copied.contents("base", 1) == copied.contents("legacy", 1)
    assert counts(made_true(copied).differences) == (0, 0, 0)


def test_more_rows_than_one_batch_and_one_chunk_hold(copied: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "_ROWS_AT_ONCE", 9)
    monkeypatch.setattr(applying, "_KEYS_AT_ONCE", 2)
    copied.run(
        "base",
        f"UPDATE bookings SET guests = -1 WHERE id % 2 = 0 AND {_IN_WEEK}",
        f"DELETE FROM bookings WHERE id % 5 = 0 AND {_IN_WEEK}",
        f"INSERT INTO bookings SELECT id + 50000, booked_at FROM bookings WHERE id % 7 = 0 AND {_IN_WEEK}",
    )
    with sides(copied) as (legacy, base, rows):
        compared = compare(legacy, base, rows)
        before = reads(legacy)
        batches = list(differences.differing_keys(legacy, base, rows, compared))
        # By a bitmap, index and table count once each.
        assert reads(legacy) <= before + 2, "the slice is read once, however many batches it takes"
    assert len(batches) > 5
    assert max(len(batch.of(kind)) for batch in batches for kind in Kind) > 2
    expected = counts(found(copied))
    assert sum(expected) > 40
    assert counts(made_true(copied).differences) == expected
    assert copied.contents("base", 1) == copied.contents("legacy", 1)


def test_a_week_that_has_grown_since_it_was_counted_is_held_in_memory_in_pieces_all_the_same(
    copied: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_FULLEST", 3)
    monkeypatch.setattr(buckets, "_ROWS_A_BUCKET", 1)
    monkeypatch.setattr(differences, "_ROWS_AT_ONCE", 5)
    copied.run(
        "base",
        "UPDATE migration.slices SET legacy_rows = 1, base_rows = 1 WHERE week = 'W01'",
        f"UPDATE bookings SET guests = -1 WHERE id % 2 = 0 AND {_IN_WEEK}",
    )
    with sides(copied) as (legacy, base, rows):
        compared = compare(legacy, base, rows)
        batches = list(differences.differing_keys(legacy, base, rows, compared))
    assert len(compared.differing) > 16, "as many buckets as one row was worth"
    assert len(batches) > 5
    assert sum(len(batch.changed) for batch in batches) == 35


def test_an_error_of_the_base_ends_what_the_legacy_does_for_the_comparison(
    copied: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.run("base", "UPDATE bookings SET guests = -1 WHERE id = 92")
    with sides(copied) as (legacy, base, rows):
        compared = compare(legacy, base, rows)

        class Fetching:
            def __init__(self, cursor: psycopg.ServerCursor[tuple[object, ...]], *_: object) -> None:
                self.on = cursor.connection

            def through(self, _last: int) -> None:
                self.on.execute("SELECT pg_sleep(20)" if self.on is legacy else "SELECT 1 / 0")

        monkeypatch.setattr(differences, "_InOrder", Fetching)
        with pytest.raises(psycopg.errors.DivisionByZero), base.transaction():
            list(differences.differing_keys(legacy, base, rows, compared))
        assert legacy.info.transaction_status is psycopg.pq.TransactionStatus.INERROR, "it slept to the end"


def test_above_a_share_of_rows_that_differ_all_of_them_are_copied_again_at_once(
    copied: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "_ROWS_AT_ONCE", 9)
    monkeypatch.setattr(applying, "_KEYS_AT_ONCE", 2)
    good, other = copied.contents("base", 1), copied.contents("base", 2)
    # Of a row that is right: its place says whether it was written again.
    place: LiteralString = "SELECT ctid::text FROM bookings WHERE id = 91 * 7"
    asked: list[int] = []
    for share, again in ((55, False), (54, True)):
        # 42 rows where the base has 77 then: 54.5 %.
        copied.run(
            "base",
            f"UPDATE bookings SET guests = -1 WHERE id / 91 IN (0, 1, 2, 10) AND {_IN_WEEK}",
            f"DELETE FROM bookings WHERE id / 91 = 3 AND {_IN_WEEK}",
            f"INSERT INTO bookings SELECT id + 50000, booked_at FROM bookings WHERE id / 91 IN (4, 5) AND {_IN_WEEK}",
        )
        before = copied.one("base", place)
        with sides(copied) as (legacy, base, rows):
            done = true_up(legacy, base, rows, week(1), None, recopy_percent=share)
            # Compared, counted, copied; else key by key. How often one scan counts is the planner's affair.
            asked.append(reads(legacy))
        assert counts(done.differences) == (7, 14, 21)
        assert (copied.one("base", place) != before) is again
        assert copied.contents("base", 1) == good
    assert asked[0] > 2 * asked[1]
    assert copied.contents("base", 2) == other


def test_rows_that_are_right_do_not_go_where_that_would_set_off_what_the_wrong_ones_do_not(copied: Ground) -> None:
    weak = f"weak_{secrets.token_hex(4)}"
    with psycopg.connect(copied.databases.base_url, autocommit=True) as base:
        base.execute(
            sql.SQL(
                "CREATE TABLE payments (booking bigint, at timestamptz, FOREIGN KEY (booking, at) REFERENCES bookings"
                " ON DELETE CASCADE); INSERT INTO payments SELECT id, booked_at FROM bookings;"
                " CREATE ROLE {role}; GRANT ALL ON bookings, payments TO {role}; GRANT USAGE ON SCHEMA migration TO"
                " {role}; GRANT SELECT ON ALL TABLES IN SCHEMA migration TO {role}"
            ).format(role=sql.Identifier(weak))
        )
        try:
            base.execute(
                "DELETE FROM payments WHERE booking % 10 < 6 AND at < '2024-04-08Z';"
                " DELETE FROM bookings WHERE id % 10 < 6 AND booked_at < '2024-04-08Z'"
            )
            paid = copied.one("base", "SELECT count(*) FROM payments")
            with sides(copied) as (legacy, ours, rows):
                ours.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(weak)))
                done = true_up(legacy, ours, rows, week(1), None, recopy_percent=50)
        finally:
            base.execute(sql.SQL("DROP OWNED BY {role}; DROP ROLE {role}").format(role=sql.Identifier(weak)))
    missing, extra, changed = counts(done.differences)
    assert (missing > 35, extra, changed) == (True, 0, 0)
    assert copied.contents("base", 1) == copied.contents("legacy", 1)
    assert copied.one("base", "SELECT count(*) FROM payments") == paid


def test_the_sample_names_keys_and_columns_and_has_no_values(copied: Ground) -> None:
    copied.run(
        "base",
        "UPDATE bookings SET guests = -1, note = 'personal' WHERE id = 92",
        "DELETE FROM bookings WHERE id = 93",
        _ROW,
    )
    sample = {difference.kind: difference for difference in found(copied).sample}
    assert sample[Kind.CHANGED].columns == ("guests", "note")
    assert sample[Kind.CHANGED].key == {"id": "92", "booked_at": "2024-04-02 00:00:00.092+00"}
    assert (sample[Kind.MISSING].key["id"], sample[Kind.MISSING].columns) == ("93", ())
    assert sample[Kind.EXTRA].key["id"] == "99001"
    assert "personal" not in repr(sample)
    copied.run("base", f"DELETE FROM bookings WHERE {_IN_WEEK}")
    assert len(found(copied).sample) == 20


# The first one, a byte order mark, comes first in the order of the rows as well.
_ODD = ["\ufeffbom", "", " ", "  two", "NULL", "\\N", "\\.", '"', '""', "'", ",",
        'a,"b"\n,c', "line\nbreak", "cr\rlf\r\n", "\n",
        "tab\t", "trailing ", "ünïcödé", "日本", "🛎️", "e\u0301", "é", "{}", "{a,b}",
        "%s %", "\\", "\\\\", "$1", "(1,2)", "1", "1.0",
        "true", "#", "A", "a", "\x01", "\u2028", "\u00a0", "x" * 2000]  # fmt: skip


@pytest.mark.long
def test_keys_of_text_may_hold_anything_that_a_text_may_hold(ground: Ground) -> None:
    ground.run(
        "legacy",
        'CREATE TABLE bookings (code text, part text COLLATE "C", booked_at timestamptz, v integer,'
        " PRIMARY KEY (part, code))",
    )
    ground.ask(
        "legacy",
        "INSERT INTO bookings SELECT code, part, '2024-04-02Z', 1 FROM unnest(%s::text[]) code,"
        " unnest(ARRAY['', 'p', E'q\"\\n']) part RETURNING 1",
        _ODD,
    )
    ground.open()
    ground.copy(1)
    every = len(_ODD) * 3
    ground.run("base", "UPDATE bookings SET v = 2")
    assert counts(found(ground)) == (0, 0, every)
    assert {d.key["code"] for d in found(ground).sample} <= set(_ODD)
    assert all(difference.columns == ("v",) for difference in found(ground).sample)
    assert counts(made_true(ground).differences) == (0, 0, every)
    ground.run(
        "base",
        "DELETE FROM bookings WHERE part = 'p'",
        "INSERT INTO bookings SELECT code || 'x', part || 'x', booked_at, v FROM bookings",
    )
    assert counts(made_true(ground).differences) == (len(_ODD), len(_ODD) * 2, 0)
    ground.run("legacy", "DELETE FROM bookings")
    assert counts(made_true(ground).differences) == (0, every, 0)
    assert ground.contents("base") == []


def test_keys_of_every_type_are_found_again_by_their_text(ground: Ground) -> None:
    for side in ("legacy", "base"):
        ground.run(side, 'CREATE SCHEMA "Odd %s"')
    ground.run(
        "legacy",
        "CREATE TYPE \"Odd %s\".\"Mood\" AS ENUM ('a', 'it''s, \"b\"')",
        'CREATE DOMAIN "Odd %s".word AS varchar(9)',
        'CREATE TABLE bookings (a uuid, b date, c timestamp, d float8, e bytea, f boolean, g "Odd %s"."Mood",'
        ' h "Odd %s".word, i char(5), j interval, k inet, l integer[], m numeric, n text[], o int4range,'
        " p real, q time,"
        ' r "char", booked_at timestamptz NOT NULL, v integer,'
        " PRIMARY KEY (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r))",
        "INSERT INTO bookings SELECT gen_random_uuid(), '2024-01-01'::date + n, '2024-01-01'::timestamp +"
        " n * interval '1.000001 s',"
        ' n / 3.0, decode(md5(n::text), \'hex\'), n % 2 = 0, (enum_range(NULL::"Odd %s"."Mood"))[1 + n'
        " % 2], 'w' || n, 'c' || n % 9,"
        " n * interval '25 h 1 mon', '10.0.0.1'::inet + n, ARRAY[n, NULL, -n], n * 1.10, ARRAY['a,b',"
        " '\"', E'\\n', NULL, ''],"
        " int4range(n, 2 * n), n / 7.0, '10:00'::time + n * interval '1 s', 'x', '2024-04-02Z', n FROM"
        " generate_series(1, 40) n",
        "INSERT INTO bookings SELECT a, 'infinity', '-infinity', 'NaN', '', f, g, '', '', '0', '::1/64',"
        " '{}', 'NaN', '{}', 'empty',"
        " '-Infinity', '24:00', '', booked_at, 0 FROM bookings LIMIT 1",
    )
    ground.open()
    ground.copy(1)
    ground.run("base", "UPDATE bookings SET v = -v - 1")
    assert counts(found(ground)) == (0, 0, 41)
    assert {difference.columns for difference in found(ground).sample} == {("v",)}
    assert counts(made_true(ground).differences) == (0, 0, 41)
    ground.run("base", "DELETE FROM bookings WHERE v % 2 = 0", "UPDATE bookings SET h = 'other' WHERE v % 2 = 1")
    assert counts(made_true(ground).differences) == (41, 20, 0)
    assert ground.contents("base") == ground.contents("legacy")


def test_keys_that_are_equal_as_numbers_and_differ_as_texts_are_put_right(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE TABLE bookings (id numeric PRIMARY KEY, booked_at timestamptz NOT NULL, v integer)",
        "INSERT INTO bookings SELECT n + 0.0, '2024-04-02Z', n FROM generate_series(1, 20) n",
    )
    ground.open()
    ground.copy(1)
    ground.run("base", "UPDATE bookings SET id = id * 1.00 WHERE v <= 10")
    assert counts(made_true(ground).differences) == (10, 10, 0)
    assert ground.contents("base") == ground.contents("legacy")


@pytest.mark.parametrize("recopy_percent", [100, 0])
def test_rows_that_changed_places_in_a_unique_key_are_put_right_however_many_batches_they_are_in(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, recopy_percent: int
) -> None:
    monkeypatch.setattr(differences, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(applying, "_KEYS_AT_ONCE", 2)
    ground.run(
        "legacy",
        "CREATE TABLE bookings (id numeric PRIMARY KEY, booked_at timestamptz NOT NULL, seat integer,"
        " UNIQUE (seat, booked_at))",
        "INSERT INTO bookings SELECT n + 0.0, '2024-04-02Z', n FROM generate_series(1, 120) n",
    )
    ground.open()
    ground.copy(1)
    # Each of half of the seats went to the next one; and keys that are equal, and other texts, fall into other batches.
    ground.run(
        "base",
        "UPDATE bookings SET seat = -seat WHERE id <= 60",
        "UPDATE bookings SET seat = 1 - seat WHERE seat BETWEEN -59 AND -1",
        "UPDATE bookings SET seat = 1 WHERE seat = -60",
        "UPDATE bookings SET id = id * 1.00 WHERE id > 100",
        "DELETE FROM bookings WHERE id BETWEEN 11 AND 13",
        "INSERT INTO bookings SELECT id + 200, booked_at, seat - 200 FROM bookings WHERE id < 5",
    )
    assert counts(made_true(ground, recopy_percent=recopy_percent).differences) == (23, 24, 57)
    assert ground.contents("base") == ground.contents("legacy")


# As an extension makes one: with an equality of its own, in no schema that is looked through.
_NUMBERS: LiteralString = """
CREATE SCHEMA "My types"; CREATE TYPE "My types".number;
CREATE FUNCTION number_in(cstring) RETURNS "My types".number LANGUAGE internal IMMUTABLE STRICT AS 'int8in';
CREATE FUNCTION number_out("My types".number) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int8out';
CREATE TYPE "My types".number (INPUT = number_in, OUTPUT = number_out, LIKE = bigint);
CREATE FUNCTION number_eq("My types".number, "My types".number) RETURNS boolean
    LANGUAGE internal IMMUTABLE STRICT AS 'int8eq';
CREATE FUNCTION number_lt("My types".number, "My types".number) RETURNS boolean
    LANGUAGE internal IMMUTABLE STRICT AS 'int8lt';
CREATE FUNCTION number_cmp("My types".number, "My types".number) RETURNS integer
    LANGUAGE internal IMMUTABLE STRICT AS 'btint8cmp';
CREATE OPERATOR "My types".= (LEFTARG = "My types".number, RIGHTARG = "My types".number, FUNCTION = number_eq, MERGES);
CREATE OPERATOR "My types".< (LEFTARG = "My types".number, RIGHTARG = "My types".number, FUNCTION = number_lt);
CREATE OPERATOR CLASS "My types".number_ops DEFAULT FOR TYPE "My types".number USING btree AS
    OPERATOR 1 "My types".<, OPERATOR 3 "My types".=, FUNCTION 1 number_cmp("My types".number, "My types".number);
CREATE DOMAIN "My types".positive AS "My types".number;
"""


@pytest.mark.parametrize("key_type", ["number", pytest.param("positive", marks=pytest.mark.long)])
def test_keys_of_a_type_with_an_equality_of_its_own_are_found_repaired_and_taken_back(
    ground: Ground, key_type: LiteralString
) -> None:
    for side in ("legacy", "base"):
        ground.run(side, _NUMBERS)
    ground.run(
        "legacy",
        f'CREATE TABLE bookings (id "My types".{key_type} PRIMARY KEY, booked_at timestamptz NOT NULL, v integer)',
        f"INSERT INTO bookings SELECT n::text::\"My types\".{key_type}, '2024-04-02Z', n FROM generate_series(1, 20) n",
    )
    ground.streamed()
    ground.run("base", "UPDATE bookings SET v = -v WHERE v < 5", "DELETE FROM bookings WHERE v > 18")
    damaged = ground.contents("base")
    assert {difference.columns for difference in found(ground).sample} == {(), ("v",)}
    repaired = ground.repair()
    assert counts(repaired.differences) == (2, 0, 4)
    ground.assert_same()
    ground.undo(repaired.repair_id)
    assert ground.contents("base") == damaged


def test_generated_columns_are_computed_again_and_told_among_those_that_differ(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE TABLE bookings (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, booked_at timestamptz NOT NULL,"
        " v integer, twice integer GENERATED ALWAYS AS (v * 2) STORED)",
        "INSERT INTO bookings (booked_at, v) SELECT '2024-04-02Z', n FROM generate_series(1, 20) n",
    )
    ground.open()
    ground.copy(1)
    ground.run("base", "UPDATE bookings SET v = -v WHERE id < 5", "DELETE FROM bookings WHERE id > 18")
    assert {difference.columns for difference in found(ground).sample} == {(), ("v", "twice")}
    assert counts(made_true(ground).differences) == (2, 0, 4)
    assert ground.contents("base") == ground.contents("legacy")


def test_a_trigger_of_the_base_that_changes_rows_undoes_the_whole_true_up(copied: Ground) -> None:
    copied.run("base", "UPDATE bookings SET guests = -1 WHERE id = 92")
    copied.spoil()
    before = copied.base_state()
    with pytest.raises(SliceMismatchError, match="1 changed") as caught:
        made_true(copied)
    assert "triggers" in caught.value.next_step
    assert copied.base_state() == before
