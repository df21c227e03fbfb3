"""Archived weeks as one table: exact and stable types, only the files that manifests list, and only those needed."""

# Arrow's type stubs leave much unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyarrow import parquet

from migration_assets.archive.cold_views import cold_relation, write_catalogue
from migration_assets.archive.columns import Storage, StoredColumn
from migration_assets.archive.manifest import Manifest, slice_folder
from migration_assets.archive.parts import parquet_schema
from migration_assets.archive.store import ArchiveStore, LocalStore, open_store
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets_tests.archive.made_weeks import COLUMNS, RELATION, archive, bookings, refusal

QUARTERS = (FiscalQuarter(2024, 3), FiscalQuarter(2024, 4))
ENUM = "ENUM('open', 'paid')"
TYPES = ["BIGINT", "TIMESTAMP WITH TIME ZONE", "VARCHAR", "DECIMAL(10,2)", ENUM, "VARCHAR", "VARCHAR"]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    opened = open_store(str(tmp_path / "archive"))
    assert isinstance(opened, LocalStore)
    return opened


@pytest.fixture
def weeks(store: LocalStore) -> list[Manifest]:
    """Four weeks, the last two and the first two of two quarters."""
    found = [FiscalWeek(QUARTERS[0], 12), FiscalWeek(QUARTERS[0], 13), *(FiscalWeek(QUARTERS[1], n) for n in (1, 2))]
    return [archive(store, bookings(150, week), week) for week in found]


def ask(store: ArchiveStore, relation: str, question: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with store.connect_duckdb() as duck:
        return duck.execute(question.replace("COLD", f"({relation})"), list(parameters)).fetchall()


def test_all_rows_of_all_weeks_with_the_tables_columns_and_the_weeks_names(
    store: LocalStore, weeks: list[Manifest]
) -> None:
    relation = cold_relation(store, weeks, COLUMNS)
    expected = [row for manifest in weeks for row in bookings(150, manifest.week)]
    found = ask(store, relation, "SELECT * EXCLUDE (fiscal_quarter, fiscal_week) FROM COLD ORDER BY booked_at")
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert [row[2:] for row in found] == [row[2:] for row in expected]
    counted = ask(store, relation, "SELECT fiscal_quarter, fiscal_week, count(*) FROM COLD GROUP BY ALL ORDER BY ALL")
    assert counted == [
        ("FY24-Q3", "W12", 150),
        ("FY24-Q3", "W13", 150),
        ("FY24-Q4", "W01", 150),
        ("FY24-Q4", "W02", 150),
    ]
    described = ask(store, relation, "DESCRIBE SELECT * FROM COLD")
    assert [row[0] for row in described] == [*(column.name for column in COLUMNS), "fiscal_quarter", "fiscal_week"]
    assert [row[1] for row in described] == TYPES


def test_an_empty_archive_has_no_rows_and_the_right_types(store: LocalStore) -> None:
    relation = cold_relation(store, [], COLUMNS)
    assert [row[1] for row in ask(store, relation, "DESCRIBE SELECT * FROM COLD")] == TYPES
    assert ask(store, relation, "SELECT * FROM COLD") == []


def test_files_that_no_manifest_lists_are_not_read(store: LocalStore, weeks: list[Manifest]) -> None:
    home = store.root / slice_folder(RELATION, weeks[0].week)
    shutil.copy(home / weeks[0].files[0].name, home / "part-old-00000.parquet")
    assert ask(store, cold_relation(store, weeks, COLUMNS), "SELECT count(*) FROM COLD") == [(600,)]


def ruin(store: LocalStore, manifest: Manifest) -> None:
    """Make every page of the week's files unreadable; footers, which say what is where, stay."""
    for file in manifest.files:
        path = store.root / slice_folder(RELATION, manifest.week) / file.name
        data = path.read_bytes()
        footer = int.from_bytes(data[-8:-4], "little") + 8
        path.write_bytes(data[:4] + b"\xff" * (len(data) - 4 - footer) + data[-footer:])


def replace_by_nonsense(store: LocalStore, manifest: Manifest) -> None:
    for file in manifest.files:
        (store.root / slice_folder(RELATION, manifest.week) / file.name).write_text("nonsense")


@pytest.mark.parametrize(
    ("condition", "first", "second"),
    [
        ("fiscal_quarter = 'FY24-Q4' AND fiscal_week = '{}'", ["W01"], ["W02"]),
        ("fiscal_quarter || '|' || fiscal_week = 'FY24-Q4|{}'", ["W01"], ["W02"]),
        ("booked_at >= '{}' AND booked_at < '{}'", ["2023-10-01", "2023-10-08"], ["2023-10-08", "2023-10-15"]),
        (
            "booked_at BETWEEN TIMESTAMPTZ '{}' AND TIMESTAMPTZ '{}' - INTERVAL 1 SECOND",
            ["2023-10-01", "2023-10-08"],
            ["2023-10-08", "2023-10-15"],
        ),
    ],
)
def test_only_the_week_that_a_condition_asks_for_is_read(
    store: LocalStore, weeks: list[Manifest], condition: str, first: list[str], second: list[str]
) -> None:
    relation = cold_relation(store, weeks, COLUMNS)
    question = f"SELECT count(*), count(guest), min(booked_at), sum(price) FROM COLD WHERE {condition}"
    clean = ask(store, relation, question.format(*first))
    for manifest in (weeks[0], weeks[1], weeks[3]):
        ruin(store, manifest)
    assert clean[0][0] == 150
    assert ask(store, relation, question.format(*first)) == clean
    with pytest.raises(duckdb.Error):  # so the ruin would be noticed
        ask(store, relation, question.format(*second))


def test_weeks_that_a_condition_excludes_by_name_are_not_even_opened(store: LocalStore, weeks: list[Manifest]) -> None:
    relation = cold_relation(store, weeks, COLUMNS)
    replace_by_nonsense(store, weeks[1])
    replace_by_nonsense(store, weeks[3])
    question = "SELECT count(*), count(guest) > 100 FROM COLD WHERE fiscal_week IN ('W12', 'W01')"
    assert ask(store, relation, question) == [(300, True)]


def test_a_file_that_is_gone_is_an_error_and_no_missing_rows(store: LocalStore, weeks: list[Manifest]) -> None:
    shutil.rmtree(store.root / slice_folder(RELATION, weeks[1].week))
    with pytest.raises(duckdb.Error, match="No files found"):
        ask(store, cold_relation(store, weeks, COLUMNS), "SELECT count(*) FROM COLD")


def test_a_quarter_outside_of_the_asked_time_is_dropped_before_its_files_are_opened(
    store: LocalStore, weeks: list[Manifest]
) -> None:
    relation = cold_relation(store, weeks, COLUMNS)
    plan = ask(store, relation, "EXPLAIN SELECT count(*) FROM COLD WHERE booked_at >= '2023-10-02'")[0][1]
    assert plan.count("Function:") == 1
    whole = ask(store, relation, "EXPLAIN SELECT count(*) FROM COLD")[0][1]
    assert whole.count("Function:") == 2


NUMERIC = StoredColumn("amount", "numeric", Storage.TEXT)


def week_with(store: LocalStore, number: int, column: StoredColumn, values: list[Any]) -> Manifest:
    """A week whose rows carry one more column; written as the archive would, without a fingerprint to prove."""
    week = FiscalWeek(QUARTERS[0], number)
    rows = bookings(len(values), week)
    plain = archive(store, rows, week)
    place = store.root / slice_folder(RELATION, week) / plain.files[0].name
    table = parquet.read_table(place, partitioning=None)
    field = parquet_schema([column]).field(0)
    storage: Any = pa.array(values, field.type.storage_type if hasattr(field.type, "storage_type") else field.type)
    array = pa.ExtensionArray.from_storage(field.type, storage) if hasattr(field.type, "storage_type") else storage
    parquet.write_table(table.append_column(field, array), place)
    return replace(plain, columns=(*COLUMNS, column))


def shown(store: LocalStore, manifests: list[Manifest], column: StoredColumn) -> tuple[str, list[Any]]:
    relation = cold_relation(store, manifests, (*COLUMNS, column))
    (kind,) = [row[1] for row in ask(store, relation, "DESCRIBE SELECT * FROM COLD") if row[0] == column.name]
    return kind, [
        row[0] for row in ask(store, relation, f'SELECT "{column.name}"::VARCHAR FROM COLD ORDER BY booked_at')
    ]


@pytest.mark.long(but=1)
@pytest.mark.parametrize(
    ("column", "exact", "texts", "kind", "expected"),
    [
        (StoredColumn("x", "numeric(10,2)", Storage.DECIMAL, precision=10, scale=2), [None], ["NaN", "1.50", None],
         "DECIMAL(10,2)", [None, "1.50", None]),
        (NUMERIC, ["1.5"], ["NaN", "-0.0000000000015", "12345678901234567890123456", "1" + "0" * 26, None],
         "DECIMAL(38,12)", ["-0.000000000002", "12345678901234567890123456.000000000000", None, None]),
        (StoredColumn("x", "date", Storage.DATE), [None], ["2024-02-29", "0044-03-15 BC", "infinity", "?"],
         "DATE", ["2024-02-29", "0044-03-15 (BC)", "infinity", None]),
        (StoredColumn("x", "timestamp without time zone", Storage.TIMESTAMP), [None], ["0044-03-15 12:00:00.5 BC"],
         "TIMESTAMP", ["0044-03-15 (BC) 12:00:00.5"]),
        (StoredColumn("x", "timestamp with time zone", Storage.TIMESTAMPTZ), [None], ["2024-02-29 01:02:03.000004+00"],
         "TIMESTAMP WITH TIME ZONE", ["2024-02-29 01:02:03.000004+00"]),
        (StoredColumn("x", "double precision", Storage.FLOAT, width=8), [0.5], ["Infinity", "0.1"],
         "DOUBLE", ["inf", "0.1"]),
        (StoredColumn("x", "jsonb", Storage.JSON), ['{"a": 1}'], ['{"b": [1, null]}'], "JSON", ['{"b": [1, null]}']),
        (StoredColumn("x", "bytea", Storage.BYTES), [b"ab"], [r"\xdeadbeef", r"\x", "\\x5"], "BLOB",
         [r"\xDE\xAD\xBE\xEF", "", None]),
        (StoredColumn("x", "boolean", Storage.BOOLEAN), [True], ["t", "f"], "BOOLEAN", ["true", "false"]),
        (StoredColumn("x", "public.mood", Storage.TEXT, labels=("a",)), ["a"], ["a"], "ENUM('a')", ["a"]),
        (StoredColumn("x", "numeric(50,2)", Storage.TEXT), ["1.00"], ["NaN", "7.25"], "DECIMAL(38,12)",
         [None, "7.250000000000"]),
        (StoredColumn("x", "integer[]", Storage.LIST, element=Storage.INTEGER, width=4), [[1, None]],
         ["{1,NULL,-3}", "{}", "{{1,2},{3,4}}", "[0:1]={1,2}", None], "INTEGER[]",
         ["[1, NULL, -3]", "[]", None, None, None]),
        (StoredColumn("x", "boolean[]", Storage.LIST, element=Storage.BOOLEAN), [[True]], ["{t,NULL,f}"],
         "BOOLEAN[]", ["[true, NULL, false]"]),
    ],
)  # fmt: skip
def test_a_weeks_odd_values_do_not_change_the_type_of_a_column(
    store: LocalStore, column: StoredColumn, exact: list[Any], texts: list[Any], kind: str, expected: list[Any]
) -> None:
    column = replace(column, name="x")
    as_text = replace(column, storage=Storage.TEXT, element=None, width=0, precision=0, scale=0)
    manifests = [week_with(store, 1, column, exact), week_with(store, 2, as_text, texts)]
    found_kind, found = shown(store, manifests, column)
    assert found_kind == kind
    assert found[-len(texts) :][-len(expected) :] == expected


def test_lists_of_texts_come_out_of_postgresqls_own_text(store: LocalStore) -> None:
    column = StoredColumn("x", "text[]", Storage.LIST, element=Storage.TEXT)
    texts = [
        r'{a,"b c","",NULL,"NULL","say \"x\"","back\\slash","{}","a,b",it' + "'" + 's,"line\nbreak",[x]}',
        "{{a},{b}}",
    ]
    odd = week_with(store, 1, replace(column, storage=Storage.TEXT, element=None), texts)
    relation = cold_relation(store, [odd], (*COLUMNS, column))
    found = [row[0] for row in ask(store, relation, "SELECT x FROM COLD ORDER BY booked_at")]
    assert found == [
        ["a", "b c", "", None, "NULL", 'say "x"', "back\\slash", "{}", "a,b", "it's", "line\nbreak", "[x]"],
        None,
    ]


def test_a_column_that_came_later_is_null_before_and_one_that_went_is_not_shown(store: LocalStore) -> None:
    old = week_with(store, 1, StoredColumn("gone", "text", Storage.TEXT, is_text_type=True), ["a", "b"])
    new = week_with(store, 2, StoredColumn("x", "bigint", Storage.INTEGER, width=8), [7])
    assert shown(store, [old, new], StoredColumn("x", "bigint", Storage.INTEGER, width=8)) == (
        "BIGINT",
        [None, None, "7"],
    )


def test_a_column_that_became_wider_has_its_type_of_today(store: LocalStore) -> None:
    old = week_with(store, 1, StoredColumn("x", "integer", Storage.INTEGER, width=4), [5])
    assert shown(store, [old], StoredColumn("x", "bigint", Storage.INTEGER, width=8)) == ("BIGINT", ["5"])


def test_names_that_differ_in_case_only_or_like_ours_stay_apart(store: LocalStore) -> None:
    upper = StoredColumn("GUEST", "bigint", Storage.INTEGER, width=8)
    manifest = week_with(store, 1, upper, [7])
    relation = cold_relation(store, [manifest], (*COLUMNS, upper))
    assert [row[0] for row in ask(store, relation, "DESCRIBE SELECT * FROM COLD")][2:6] == [
        "guest", "price", "status", "GUEST_1",
    ]  # fmt: skip
    assert ask(store, relation, 'SELECT "GUEST_1" FROM COLD') == [(7,)]


def test_a_catalogue_is_a_file_that_any_duckdb_reads(store: LocalStore, weeks: list[Manifest], tmp_path: Path) -> None:
    path = tmp_path / "var" / "archive.duckdb"
    write_catalogue(
        path, {"bookings": cold_relation(store, weeks, COLUMNS), "no ne": cold_relation(store, [], COLUMNS)}, store
    )
    with duckdb.connect(str(path), read_only=True) as duck:
        assert duck.execute("SELECT count(*) FROM bookings").fetchone() == (600,)
        assert duck.execute('SELECT count(*) FROM "no ne"').fetchone() == (0,)
        before = path.stat().st_ino
        write_catalogue(path, {"bookings": cold_relation(store, weeks[:1], COLUMNS)}, store)  # while it is read
        assert path.stat().st_ino != before
        assert duck.execute("SELECT count(*) FROM bookings").fetchone() == (600,)
    with store.connect_duckdb(str(path), read_only=True) as duck:
        assert duck.execute("SELECT count(*) FROM bookings").fetchone() == (150,)
    assert [entry.name for entry in path.parent.iterdir()] == ["archive.duckdb"]


def test_a_catalogue_that_cannot_be_made_leaves_the_old_one(
    store: LocalStore, weeks: list[Manifest], tmp_path: Path
) -> None:
    path = tmp_path / "archive.duckdb"
    write_catalogue(path, {"bookings": cold_relation(store, weeks, COLUMNS)}, store)
    before = path.read_bytes()
    for manifest in weeks:
        replace_by_nonsense(store, manifest)
    error = refusal(write_catalogue, path, {"bookings": cold_relation(store, weeks, COLUMNS)}, store)
    assert "cannot be written" in error.what
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["archive", "archive.duckdb"]
