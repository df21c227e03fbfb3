"""Questions over both sides: right, pruned, one SELECT only, and written to a file as a whole."""

# Arrow's type stubs leave much unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
import secrets
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pyarrow import parquet
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week
from migration_assets.archive.querying import (
    ask,
    engine_of,
    export,
    refresh_catalogue,
)
from migration_assets.domain.errors import ArchiveError, RestoreError
from migration_assets.retirement.restoring import drill_week
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import WEEKS, with_settings
from migration_assets_tests.archive.test_leaving_and_coming_back import on
from migration_assets_tests.confirmed_deeds import let_leave
from migration_assets_tests.ground import wait_for

spam = [1]  # DuckDB takes a name that is no table for a variable of Python's
COLD = (WEEKS[1], WEEKS[3])


@pytest.fixture(scope="module")
def split(signed: Migration) -> Migration:
    """W02 and W04, the one with odd values, are in Parquet alone."""
    migration = with_settings(signed, quarantine_days=0)
    for week in COLD:
        archive_week(migration, week)
        let_leave(migration, week)
    return migration


def test_every_column_of_every_row_is_answered_from_either_side(split: Migration) -> None:
    columns = "id, booked_at::text, amenity, resident_id, status, guests, price::text, currency, contact_email, notes"
    order = " FROM {} ORDER BY id"
    hot_and_cold = ask(split, f"SELECT {columns}" + order.format("amenity_bookings")).answer
    quarter = "amenity_bookings WHERE booked_at >= '2024-04-01'"
    legacy = on(split.databases.legacy_url, f"SELECT {columns}" + order.format(quarter))
    nan = {row[0] for row in legacy if row[6] == "NaN"}
    assert len(nan) == 1
    expected = [(*row[:6], None if row[0] in nan else row[6], *row[7:]) for row in legacy]
    # Enums and domains are text on both sides; a NaN that no decimal holds is NULL in queries.
    assert len(hot_and_cold.rows) == len(expected)
    for one, other in zip(hot_and_cold.rows, expected, strict=True):
        assert tuple(map(str, one)) == tuple(map(str, other))


def test_types_are_the_same_whatever_side_a_row_is_on(split: Migration) -> None:
    kinds = ", ".join(f"typeof({name})" for name in ("price", "discount", "tags", "metadata", "ends_at"))
    types = ask(split, f"SELECT DISTINCT {kinds} FROM amenity_bookings").answer.rows
    assert types == [("DECIMAL(10,2)", "DECIMAL(38,12)", "VARCHAR[]", "JSON", "TIMESTAMP WITH TIME ZONE")]
    total = ask(split, "SELECT sum(amount_due) FROM amenity_bookings WHERE fiscal_week = 'W03'").answer.rows[0][0]
    assert (
        total
        == on(
            split.databases.legacy_url,
            "SELECT sum(amount_due) FROM amenity_bookings WHERE booked_at >= '2024-04-15' AND booked_at < '2024-04-22'",
        )[0][0]
    )
    assert isinstance(total, Decimal)


def test_what_a_type_cannot_show_is_null_and_infinities_are_kept(split: Migration) -> None:
    found = ask(
        split,
        "SELECT count(*) FILTER (WHERE ends_at = 'infinity'), count(*) FILTER (WHERE updated_at = '-infinity'),"
        " count(*) FILTER (WHERE notes = ''), count(*) FILTER (WHERE price IS NULL)"
        " FROM public.amenity_bookings WHERE fiscal_week = 'W04'",
    ).answer.rows
    assert found[0][0] == 1
    assert found[0][1] == 1
    assert found[0][2] >= 1
    assert found[0][3] == 1


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("condition", "files", "partitions"),
    [
        ("fiscal_week = 'W02'", 1, 0),
        ("fiscal_quarter = 'FY25-Q2' AND fiscal_week = 'W05'", 0, 1),
        ("booked_at >= '2024-04-08' AND booked_at < '2024-04-09'", 1, 0),
        ("booked_at >= '2024-05-27' AND booked_at < '2024-06-10'", 0, 2),
    ],
)
def test_a_condition_prunes_files_and_partitions(split: Migration, condition: str, files: int, partitions: int) -> None:
    base = split.databases.base_url
    on(base, "SELECT pg_stat_reset()")
    rows = ask(split, f"SELECT count(*) FROM amenity_bookings WHERE {condition}").answer.rows[0][0]
    assert rows > 0
    scanned = (
        "SELECT count(*) FROM pg_stat_user_tables WHERE relname LIKE 'amenity_bookings_fy%w__'"
        " AND coalesce(seq_scan, 0) + coalesce(idx_scan, 0) > 0"
    )
    # A backend's counters arrive when it ends.
    wait_for(lambda: on(base, scanned) >= [(partitions,)], "the scans are counted")
    assert on(base, scanned) == [(partitions,)]
    plan = ask(split, f"SELECT count(*) FROM amenity_bookings WHERE {condition}", explain=True).answer.rows[0][0]
    assert sum(map(int, re.findall(r"Total Files Read: (\d+)", plan))) == files, plan


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM amenity_bookings", "SELECT 1; SELECT 2", "", "ATTACH 'x' AS y", "COPY amenity_bookings TO 'x.csv'"],
)
def test_only_one_select_is_a_question(split: Migration, statement: str) -> None:
    with pytest.raises(ArchiveError, match="one SELECT"):
        ask(split, statement)


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM postgres_execute('hot', 'commit; DELETE FROM public.amenity_bookings')",
        "SELECT * FROM postgres_query('hot', 'SELECT 1')",
        "SELECT id FROM amenity_bookings WHERE notes IN (SELECT content FROM read_text('/etc/passwd'))",
        "SELECT (SELECT count(*) FROM read_csv('/etc/passwd')) FROM amenity_bookings",
        "FROM '/etc/hosts.csv'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM hot.migration.streams",
        "SELECT * FROM duckdb_settings()",
        "WITH duckdb_settings AS (SELECT 1) SELECT * FROM duckdb_settings",
        'WITH "a.csv" AS (SELECT 1) SELECT * FROM "a.csv"',
        "SELECT * FROM information_schema.tables",
        "SELECT current_setting('secret_directory')",
        "SELECT getenv('HOME')",
        "SELECT json_serialize_plan('SELECT * FROM read_csv(''/etc/passwd'')')",
        "SHOW ALL TABLES",
        "PRAGMA database_list",
        "SELECT * FROM spam",
    ],
)
def test_a_question_reads_the_table_and_nothing_else(split: Migration, statement: str) -> None:
    before = on(split.databases.base_url, "SELECT count(*) FROM amenity_bookings")
    with pytest.raises(ArchiveError, match=r"a question (is|calls)"):
        ask(split, statement)
    assert on(split.databases.base_url, "SELECT count(*) FROM amenity_bookings") == before


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    "statement",
    [
        "WITH late AS (FROM amenity_bookings WHERE fiscal_week = 'W05') SELECT count(*) FROM late",
        "SELECT tag, count(*) FROM (SELECT unnest(tags) AS tag FROM amenity_bookings) GROUP BY ALL",
        "SELECT n FROM range(3) t(n)",
        "DESCRIBE amenity_bookings",
        "SUMMARIZE public.amenity_bookings",
        "VALUES (1)",
    ],
)
def test_whatever_asks_about_the_table_alone_is_answered(split: Migration, statement: str) -> None:
    assert ask(split, statement).answer.columns


def test_the_base_lets_a_question_s_session_write_nothing(split: Migration) -> None:
    """Were a question to reach it past the parser: the server refuses."""
    with engine_of(split) as (engine, _), pytest.raises(duckdb.Error, match="read-only transaction"):
        engine.duck.execute("CALL postgres_execute('hot', 'COMMIT; DELETE FROM public.amenity_bookings')")


def test_questions_may_have_a_role_of_their_own(split: Migration) -> None:
    role, database = f"reader_{secrets.token_hex(4)}", conninfo_to_dict(split.databases.base_url)["dbname"]
    ask(split, "SELECT 1")  # the view is made by whoever migrates
    with psycopg.connect(split.databases.base_url, autocommit=True) as base:
        [(view,)] = base.execute("SELECT viewname FROM pg_views WHERE schemaname = 'migration'").fetchall()
        base.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'reads'".encode())
        try:
            url = make_conninfo(split.databases.base_url, user=role, password="reads", dbname=database)
            weak = with_settings(split, query_url=SecretStr(url))
            with pytest.raises(ArchiveError, match="permission denied"):
                ask(weak, "SELECT count(*) FROM amenity_bookings")
            base.execute(
                f"GRANT USAGE ON SCHEMA migration TO {role};"
                f" GRANT SELECT ON public.amenity_bookings, migration.{view} TO {role}".encode()
            )
            assert ask(weak, "SELECT count(*) FROM amenity_bookings").answer.rows[0][0] > 0
        finally:
            base.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def written_anew(data: bytes) -> bytes:
    """A valid Parquet file of the same size, rows and times, which says of itself what the real one says.

    What is left of the size lies between the rows and the footer, where nobody looks.
    """
    table: Any = parquet.read_table(pa.BufferReader(data))
    place = table.schema.get_field_index("guests")
    changed = table.set_column(
        place, table.schema.field(place), pc.bit_wise_xor(table["guests"], pa.scalar(1, table["guests"].type))
    )
    head: Any = parquet.read_metadata(pa.BufferReader(data)).metadata
    sink = pa.BufferOutputStream()
    with parquet.ParquetWriter(sink, changed.schema, compression="zstd", compression_level=19) as writer:
        writer.add_key_value_metadata(head)
        writer.write_table(changed)
    new = sink.getvalue().to_pybytes()
    footer = int.from_bytes(new[-8:-4], "little") + 8
    assert len(new) <= len(data)
    return new[:-footer] + bytes(len(data) - len(new)) + new[-footer:]


@pytest.mark.long
@pytest.mark.parametrize("damage", ["missing", "cut", "another", "written anew", "manifest"])
def test_a_week_that_cannot_be_read_stops_the_questions_that_need_it_and_no_others(
    split: Migration, damage: str
) -> None:
    archive = split.settings.archive_url
    assert archive is not None
    folders = [next(Path(archive.get_secret_value()).rglob(f"*fiscal_week={week.name}*")) for week in COLD]
    [broken], [other] = (sorted(folder.rglob("*.parquet")) for folder in folders)
    if damage == "manifest":
        [broken] = [file for file in folders[0].rglob("*") if "manifest" in file.name]
    before = broken.read_bytes()
    try:
        if damage == "cut":
            broken.write_bytes(before[:-100])
        elif damage == "another":
            broken.write_bytes(other.read_bytes())
        elif damage == "written anew":
            broken.write_bytes(written_anew(before))
        else:
            broken.unlink()
        for needs_it in (
            "SELECT count(*) FROM amenity_bookings",
            "SELECT count(*) FROM amenity_bookings WHERE fiscal_week = 'W02'",
            "SELECT max(price) FROM amenity_bookings WHERE guests > 1 AND fiscal_quarter = 'FY25-Q2'",
            "SELECT id FROM amenity_bookings WHERE booked_at > '2024-04-10' AND booked_at < '2024-04-11'",
            "SELECT fiscal_week, count(*) FROM amenity_bookings GROUP BY ALL",
        ):
            with pytest.raises(ArchiveError, match=r"FY25-Q2\|W02 is in its archive alone, which cannot be read: "):
                ask(split, needs_it)
        for needs_it_not in (
            "SELECT count(*) FROM amenity_bookings WHERE fiscal_week IN ('W04', 'W05')",
            "SELECT count(*) FROM amenity_bookings WHERE booked_at >= '2024-04-22' AND booked_at < '2024-05-06'",
        ):
            [(rows,)] = ask(split, needs_it_not).answer.rows
            assert rows > 0
    finally:
        broken.write_bytes(before)
    assert ask(split, "SELECT count(*) FROM amenity_bookings WHERE fiscal_week = 'W02'").answer.rows[0][0] > 0


@pytest.mark.long
def test_a_label_that_was_renamed_is_the_same_one_on_both_sides_and_no_restore_guesses(split: Migration) -> None:
    base = split.databases.base_url
    statuses = "SELECT status, count(*) FROM amenity_bookings WHERE fiscal_week IN ('W02', 'W03') GROUP BY 1 ORDER BY 1"
    before = ask(split, statuses).answer.rows
    first = before[0][0]
    [(kind,)] = on(base, "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attname = 'status'"
                         " AND attrelid = 'public.amenity_bookings'::regclass")  # fmt: skip
    on(base, f"ALTER TYPE public.{kind} RENAME VALUE '{first}' TO 'zz renamed'")
    try:
        # In the order of the labels, whatever they are called.
        assert ask(split, statuses).answer.rows == [("zz renamed", before[0][1]), *before[1:]]
        with pytest.raises(RestoreError, match=f"lost the label '{first}'") as caught:
            drill_week(split, WEEKS[1])
        assert "RENAME VALUE" in caught.value.next_step
    finally:
        on(base, f"ALTER TYPE public.{kind} RENAME VALUE 'zz renamed' TO '{first}'")
    assert ask(split, statuses).answer.rows == before
    assert drill_week(split, WEEKS[1]).fingerprint.rows > 0


def test_a_condition_that_came_later_ends_a_restore_in_a_sentence_without_values(split: Migration) -> None:
    """No label is missing, and yet the type of now does not take what was archived."""
    base = split.databases.base_url
    [(email,)] = on(base, "SELECT min(contact_email) FROM amenity_bookings WHERE contact_email IS NOT NULL")
    on(base, "ALTER TABLE amenity_bookings ADD CONSTRAINT nobody CHECK (contact_email IS NULL) NOT VALID")
    try:
        with pytest.raises(RestoreError, match="violates check constraint") as caught:
            drill_week(split, WEEKS[1])
        assert "@" not in str(caught.value)
        assert email
    finally:
        on(base, "ALTER TABLE amenity_bookings DROP CONSTRAINT nobody")


def test_a_wrong_statement_says_where(split: Migration) -> None:
    with pytest.raises(ArchiveError, match="no_such_column"):
        ask(split, "SELECT no_such_column FROM amenity_bookings")


def test_an_answer_is_cut_at_its_limit_and_says_so(split: Migration) -> None:
    assert ask(split, "SELECT id FROM amenity_bookings", limit=3).answer.truncated
    assert len(ask(split, "SELECT id FROM amenity_bookings", limit=3).answer.rows) == 3
    assert not ask(split, "SELECT 1", limit=3).answer.truncated


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_whole_answer_becomes_one_file(split: Migration, tmp_path: Path, ending: str) -> None:
    target, other = tmp_path / f"for court.{ending}", tmp_path / "another file"
    other.write_text("ours")
    link = target.with_name(f".{target.name}.part")
    link.symlink_to(other)  # of somebody who has the folder, too, and knows how this program once called its files
    done = export(split, "SELECT * FROM amenity_bookings -- all of it", target)
    assert {target, other, link} == set(tmp_path.iterdir())
    assert other.read_text() == "ours"
    assert done.bytes == target.stat().st_size
    of_legacy = on(split.databases.legacy_url, "SELECT count(*) FROM amenity_bookings WHERE booked_at >= '2024-04-01'")
    assert duckdb.sql(f"SELECT count(*) FROM '{target}'").fetchall() == of_legacy == [(done.rows,)]


def test_an_export_that_fails_leaves_what_was_there(split: Migration, tmp_path: Path) -> None:
    target = tmp_path / "kept.csv"
    target.write_text("kept")
    with pytest.raises(ArchiveError):
        export(split, "SELECT error('no') FROM amenity_bookings", target)
    with pytest.raises(ArchiveError, match="neither"):
        export(split, "SELECT 1", tmp_path / "x.xlsx")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]


def test_the_catalogue_answers_from_the_archive_alone(split: Migration) -> None:
    path = refresh_catalogue(split)
    with duckdb.connect(str(path), read_only=True) as duck:
        weeks = duck.sql("SELECT fiscal_week, count(*) FROM amenity_bookings GROUP BY 1 ORDER BY 1").fetchall()
    assert [week for week, _ in weeks] == ["W02", "W04"]
