"""What the control column must not hold, found by index and by scan."""

from datetime import UTC, datetime

import pytest

from migration_assets.domain.findings import Severity
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter
from migration_assets.preflight.data import calendar_span
from migration_assets_tests.preflight.conftest import Patient


@pytest.fixture(params=["index", "scan"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bookings(patient: Patient, way: str) -> Patient:
    patient.with_bookings("ALTER TABLE bookings ALTER booked_at DROP NOT NULL")
    return patient.legacy("DROP INDEX bookings_booked_at_idx") if way == "scan" else patient


def test_rows_without_a_week_are_counted_with_an_example(patient: Patient, way: str) -> None:
    bookings(patient, way).legacy(
        "INSERT INTO bookings (id, booked_at) VALUES (901, NULL), (902, NULL), (903, 'infinity'), (904, '-infinity'),"
        " (905, '9999-12-31 23:59+00'), (906, '0044-03-15 BC'), (907, '20000-01-01')"
    )
    findings = patient.examine()
    assert findings.blocking[:3] == ["control_infinities", "control_nulls", "outside_calendar"]
    infinite, nulls, outside = (findings.one(code).evidence for code in findings.blocking[:3])
    assert "2 rows (e.g. id=90" in infinite
    assert "id=903 booked_at=infinity" in infinite
    assert "2 rows (e.g. id=901" in nulls
    assert "1 rows (e.g. id=906" in outside
    assert "2 rows (e.g. id=905" in outside
    assert ("by a full scan of 1 pages" if way == "scan" else "by index bookings_booked_at_idx") in outside


def test_a_column_that_may_hold_nulls_and_holds_none_is_a_warning_with_the_statements(
    patient: Patient, way: str
) -> None:
    finding = bookings(patient, way).examine().one("control_nulls")
    assert finding.severity is Severity.WARNING
    assert "NOT VALID" in finding.remedy
    assert "SET NOT NULL" in finding.remedy


def test_rows_of_the_next_quarter_are_told_and_rows_of_far_years_are_a_warning(patient: Patient, way: str) -> None:
    bookings(patient, way).legacy("INSERT INTO bookings (booked_at) VALUES ('2024-07-01 00:00+00')")
    finding = patient.examine().one("rows_ahead")
    assert finding.severity is Severity.INFO
    assert finding.evidence.startswith("1 rows")
    patient.legacy("INSERT INTO bookings (booked_at) VALUES ('2037-01-01')")
    assert patient.examine().severity("rows_ahead") is Severity.WARNING


@pytest.mark.long
def test_a_scan_that_takes_too_long_is_a_warning_and_no_end_of_preflight(patient: Patient) -> None:
    bookings(patient, "scan").legacy("INSERT INTO bookings (booked_at) SELECT now() FROM generate_series(1, 200000)")
    findings = patient.examine(scan_seconds=0.001)
    assert findings.severity("control_values") is Severity.WARNING
    assert findings.severity("window", "window") is not Severity.BLOCKING


@pytest.mark.parametrize("control_type", ["timestamp", "date", "timestamptz(0)"])
def test_other_types_of_control_columns_are_examined_alike(patient: Patient, control_type: str) -> None:
    declared = "CREATE TABLE bookings (id int PRIMARY KEY, booked_at {} NOT NULL)"
    with patient.ground.databases.session("legacy", "test") as legacy:
        legacy.execute("SET search_path = public")
        legacy.execute(declared.format(control_type).encode())
        legacy.execute("INSERT INTO bookings VALUES (1, '2024-05-01'), (2, 'infinity'), (3, '9999-12-31')")
    assert patient.examine().blocking == ["control_infinities", "outside_calendar"]


@pytest.mark.parametrize(
    ("calendar", "first", "last"),
    [
        (FiscalCalendar(), FiscalQuarter(2, 1), FiscalQuarter(9999, 4)),
        (FiscalCalendar(label_offset=0), FiscalQuarter(1, 1), FiscalQuarter(9999, 3)),
        (FiscalCalendar(start_month=10), FiscalQuarter(1, 2), FiscalQuarter(9999, 4)),
    ],
)
def test_the_span_of_the_calendar_is_all_that_it_can_express(
    calendar: FiscalCalendar, first: FiscalQuarter, last: FiscalQuarter
) -> None:
    assert calendar_span(calendar) == (first, last)


def test_the_biggest_quarter_is_taken_where_the_present_one_is_empty(patient: Patient) -> None:
    patient.with_bookings(
        "INSERT INTO bookings (booked_at) SELECT '2023-01-01 00:00+00'::timestamptz + n * interval '1 hour'"
        " FROM generate_series(1, 2000) n"
    )
    finding = patient.examine(as_of=datetime(2031, 1, 1, tzinfo=UTC)).one("window", "window")
    assert finding.evidence.startswith("FY24-Q1 (the biggest, since FY32-Q1 is empty)")
