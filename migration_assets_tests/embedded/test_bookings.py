"""The demo's legacy: the same every time, and as awkward as a table that has grown for years."""

from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.errors import SettingsError
from migration_assets.embedded.bookings import AS_OF, FIRST_BOOKED, create_bookings
from migration_assets_tests.conftest import Databases

Row = tuple[Any, ...]


def one(connection: psycopg.Connection[Any], query: bytes) -> Row:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def contents(url: str, *, rows: int, seed: int, time_zone: str = "UTC") -> str:
    """The md5 of every row's text in the order of ids, of a table made anew."""
    with psycopg.connect(url, autocommit=True, options=f"-c TimeZone={time_zone}") as connection:
        connection.execute("DROP TABLE IF EXISTS public.amenity_bookings")
        connection.execute("DROP TYPE IF EXISTS public.booking_status; DROP DOMAIN IF EXISTS public.email_address")
        create_bookings(connection, rows=rows, seed=seed)
        connection.execute("SET TimeZone = 'UTC'")
        digest, count = one(
            connection, b"SELECT md5(string_agg(b::text, '|' ORDER BY id)), count(*) FROM amenity_bookings b"
        )
        assert count == rows
        return digest


def test_the_same_seed_gives_the_same_contents_again_and_on_both_server_versions(databases: Databases) -> None:
    first = contents(databases.legacy_url, rows=4_000, seed=5)
    assert contents(databases.legacy_url, rows=4_000, seed=5) == first
    assert contents(databases.base_url, rows=4_000, seed=5) == first


def test_the_contents_do_not_depend_on_the_time_zone_of_the_session(databases: Databases) -> None:
    first = contents(databases.legacy_url, rows=1_000, seed=5)
    assert contents(databases.base_url, rows=1_000, seed=5, time_zone="America/New_York") == first


def test_another_seed_gives_other_contents(databases: Databases) -> None:
    assert contents(databases.legacy_url, rows=500, seed=5) != contents(databases.legacy_url, rows=500, seed=6)


@pytest.mark.long
def test_a_table_of_twenty_thousand_rows_is_spread_sized_ordered_and_stored_like_a_real_one(
    databases: Databases,
) -> None:
    progress: list[tuple[int, int]] = []
    with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
        create_bookings(connection, rows=20_000, on_progress=lambda done, rows: progress.append((done, rows)))
        weeks = connection.execute(
            "SELECT least(12, ((booked_at AT TIME ZONE 'UTC')::date - %s::date) / 7) AS week, count(*) "
            "FROM amenity_bookings WHERE booked_at >= '2024-04-01 00:00:00Z' GROUP BY 1 ORDER BY 1",
            [date(2024, 4, 1)],
        ).fetchall()
        first, last = one(connection, b"SELECT min(booked_at), max(booked_at) FROM amenity_bookings")
        [size] = one(connection, b"SELECT pg_table_size('amenity_bookings') / 20000")
        [order] = one(
            connection,
            b"SELECT correlation FROM pg_stats WHERE tablename = 'amenity_bookings' AND attname = 'booked_at'",
        )
        [toast] = one(
            connection,
            b"SELECT t.relname FROM pg_class t JOIN pg_class c ON t.oid = c.reltoastrelid "
            b"WHERE c.relname = 'amenity_bookings'",
        )
        long, longest, compressed = one(
            connection,
            b"SELECT count(*), max(octet_length(notes)), count(pg_column_compression(notes)) "
            b"FROM amenity_bookings WHERE octet_length(notes) > 2000",
        )
        [[out_of_line]] = connection.execute(
            sql.SQL("SELECT count(DISTINCT chunk_id) FROM {}").format(sql.Identifier("pg_toast", toast))
        ).fetchall()

    assert progress[-1] == (20_000, 20_000)
    assert [week for week, _ in weeks] == list(range(13))
    assert min(count for _, count in weeks[:12]) > 400
    assert 0 < weeks[12][1] < 100, "W13 holds the half day before AS_OF only"
    assert sum(count for _, count in weeks) / 20_000 == pytest.approx(0.4, abs=0.03)
    assert first >= FIRST_BOOKED
    assert last < AS_OF
    assert 800 < size < 920
    assert 0.9 < order < 1
    assert 140 < long < 260
    assert long == out_of_line, "every long note lies in the TOAST table, and nothing else does"
    assert 15_000 < longest < 20_480
    assert compressed == 0


def test_a_dropped_column_leaves_its_hole_and_a_later_one_its_missing_value(databases: Databases) -> None:
    with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
        create_bookings(connection, rows=500)
        dropped = one(
            connection,
            b"SELECT array_agg(attnum) FROM pg_attribute "
            b"WHERE attrelid = 'amenity_bookings'::regclass AND attisdropped",
        )
        missing = one(
            connection,
            b"SELECT attname::text, attmissingval::text FROM pg_attribute "
            b"WHERE attrelid = 'amenity_bookings'::regclass AND atthasmissing",
        )
        older, newer = one(
            connection,
            b"SELECT count(DISTINCT loyalty_points) FILTER (WHERE booked_at < '2023-08-01Z'), "
            b"count(DISTINCT loyalty_points) FILTER (WHERE booked_at > '2024-01-01Z') FROM amenity_bookings",
        )
        generated = one(
            connection,
            b"SELECT array_agg(attname::text) FROM pg_attribute "
            b"WHERE attrelid = 'amenity_bookings'::regclass AND attgenerated = 's'",
        )
    assert dropped == ([6],)
    assert missing == ("loyalty_points", "{25}")
    assert older == 1
    assert newer > 50
    assert generated == (["amount_due"],)


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_small_tables_are_made_too_and_take_new_rows(databases: Databases, rows: int) -> None:
    with psycopg.connect(databases.base_url) as connection:  # not autocommit: the function commits for itself
        create_bookings(connection, rows=rows)
    with psycopg.connect(databases.base_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO amenity_bookings (amenity, resident_id, property_id, starts_at, ends_at) "
            "VALUES ('Sauna', 1, 1, now(), now() + interval '1 hour')"
        )
        assert one(connection, b"SELECT count(*) FROM amenity_bookings") == (rows + 1,)
        assert one(connection, b"SELECT to_regclass('booking_hours') IS NULL") == (True,)


def test_an_existing_table_is_left_alone(databases: Databases) -> None:
    with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE amenity_bookings (mine int)")
        with pytest.raises(psycopg.errors.DuplicateTable):
            create_bookings(connection, rows=10)
        assert one(connection, b"SELECT count(*), to_regtype('booking_status') FROM amenity_bookings") == (0, None)


def test_impossible_numbers_are_refused_before_anything_is_made(databases: Databases) -> None:
    with psycopg.connect(databases.legacy_url, autocommit=True) as connection:
        with pytest.raises(SettingsError, match="Cannot make -1 rows"):
            create_bookings(connection, rows=-1)
        with pytest.raises(SettingsError, match="seed -3"):
            create_bookings(connection, rows=1, seed=-3)
        assert one(connection, b"SELECT to_regclass('amenity_bookings')") == (None,)
