"""Sizes, order on disk, and the estimate against the window."""

from migration_assets.domain.findings import Severity
from migration_assets_tests.preflight.conftest import Patient

RANDOM = (
    "INSERT INTO bookings (booked_at, note) SELECT at, repeat('x', 800) FROM (SELECT '2024-04-01 00:00+00'::timestamptz"
    " + n * interval '30 minutes' AS at FROM generate_series(0, 4367) n ORDER BY hashint4(n) OFFSET 0) s"
)


def test_rows_in_random_order_are_a_warning_with_the_predicted_amplification(patient: Patient) -> None:
    finding = patient.with_bookings(RANDOM).examine().one("physical_order")
    assert finding.severity is Severity.WARNING
    assert "CLUSTER" in finding.remedy


def test_the_same_rows_in_order_are_fine(patient: Patient) -> None:
    ordered = patient.with_bookings(RANDOM, "CLUSTER bookings USING bookings_booked_at_idx").examine()
    assert ordered.severity("physical_order") is Severity.INFO
    assert "touches 1.0 times" in ordered.one("physical_order").evidence


def test_a_missing_index_is_a_warning_with_the_statement(patient: Patient) -> None:
    finding = patient.with_bookings("DROP INDEX bookings_booked_at_idx").examine().one("control_index")
    assert finding.severity is Severity.WARNING
    assert "CREATE INDEX CONCURRENTLY ON public.bookings (booked_at);" in finding.remedy


def test_a_table_that_was_never_analyzed_is_a_warning_and_nothing_is_estimated(patient: Patient) -> None:
    patient.with_bookings()
    patient.legacy("CREATE TABLE fresh (id int PRIMARY KEY, booked_at date NOT NULL) WITH (autovacuum_enabled = off)",
                   "INSERT INTO fresh VALUES (1, '2024-05-01')")  # fmt: skip
    findings = patient.table("fresh").examine()
    assert findings.severity("sizes") is Severity.WARNING
    assert "ANALYZE public.fresh" in findings.one("window", "window").remedy


def test_a_window_that_is_too_short_is_a_warning_with_the_estimate(patient: Patient) -> None:
    findings = patient.with_bookings(RANDOM).examine(window_hours=1e-9, target_gb_per_hour=1e9)
    assert findings.severity("window", "window") is Severity.WARNING
    assert "the sample was too small to judge by" in findings.one("target_rate").evidence
    assert findings.blocking == []


def test_the_rows_of_the_sample_are_those_of_the_table(patient: Patient) -> None:
    evidence = patient.with_bookings(RANDOM).examine().one("window", "window").evidence
    assert "a sample of 4,378 rows" in evidence


def test_a_sample_that_runs_out_of_time_is_no_error(patient: Patient) -> None:
    findings = patient.with_bookings(RANDOM).examine(sample_seconds=0.0001)
    assert findings.blocking == []
    assert findings.severity("control_index") is Severity.INFO


def test_an_empty_table_fits_into_every_window(patient: Patient) -> None:
    findings = patient.with_bookings("TRUNCATE bookings").examine()
    assert findings.blocking == []
    assert findings.warnings == []
