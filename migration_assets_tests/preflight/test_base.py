"""What the base must have, what is there already, and the rehearsal."""

import psycopg

from migration_assets.domain.findings import Severity
from migration_assets_tests.preflight.conftest import Patient, catalogue_counts


def test_a_composite_type_that_the_base_lacks_is_refused_with_its_statement_and_fine_once_it_is_there(
    patient: Patient,
) -> None:
    patient.with_bookings("CREATE TYPE place AS (x int, y numeric(5,2))", "ALTER TABLE bookings ADD at place")
    findings = patient.examine()
    assert findings.blocking == ["types"]
    assert "CREATE TYPE public.place AS (x integer, y numeric(5,2));" in findings.one("types").remedy
    assert findings.severity("ddl_rehearsal") is Severity.WARNING
    patient.base("CREATE TYPE place AS (x int, y numeric(5,2))")
    findings = patient.examine()
    assert findings.blocking == []
    assert findings.severity("ddl_rehearsal") is Severity.INFO


def test_a_range_type_that_the_base_lacks_is_refused_with_its_statement(patient: Patient) -> None:
    patient.with_bookings("CREATE TYPE span AS RANGE (SUBTYPE = time)", "ALTER TABLE bookings ADD open span")
    assert (
        "CREATE TYPE public.span AS RANGE (SUBTYPE = time without time zone," in patient.examine().one("types").remedy
    )


def test_a_collation_that_the_base_lacks_is_refused_with_its_statement(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE COLLATION plain (provider = libc, locale = 'C')", 'ALTER TABLE bookings ADD title text COLLATE "plain"'
    )
    findings = patient.examine()
    assert findings.blocking == ["collations"]
    assert (
        "CREATE COLLATION IF NOT EXISTS public.plain (provider = libc, locale = 'C');"
        in findings.one("collations").remedy
    )
    patient.base("CREATE COLLATION plain (provider = libc, locale = 'C')")
    assert patient.examine().blocking == []


def test_a_function_that_a_default_calls_and_the_base_lacks_is_found_by_the_rehearsal(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE FUNCTION lucky() RETURNS int LANGUAGE sql AS 'SELECT 7'",
        "ALTER TABLE bookings ALTER guests SET DEFAULT lucky()",
    )
    before = catalogue_counts(patient.ground.databases.base_url)
    finding = patient.examine().one("ddl_rehearsal")
    assert finding.severity is Severity.BLOCKING
    assert "function public.lucky() does not exist" in finding.evidence
    assert "functions and collations are not copied" in finding.remedy
    assert catalogue_counts(patient.ground.databases.base_url) == before


def test_a_table_of_the_base_with_other_columns_is_refused_with_the_differences(patient: Patient) -> None:
    patient.with_bookings().base(
        "CREATE TABLE bookings (id bigint, booked_at timestamp) PARTITION BY RANGE (booked_at)"
    )
    findings = patient.examine()
    assert findings.blocking == ["base_table"]
    assert "timestamp without time zone in the base" in findings.one("base_table").evidence
    assert "price" in findings.one("base_table").evidence


def test_a_table_of_the_base_that_is_not_partitioned_is_refused(patient: Patient) -> None:
    patient.with_bookings().base(
        "CREATE TABLE bookings (id bigint, booked_at timestamptz, guests int, price numeric, note text)"
    )
    findings = patient.examine()
    assert findings.blocking == ["base_table"]
    assert "not partitioned" in findings.one("base_table").evidence


def test_a_quarter_that_is_open_already_is_examined_without_a_change(patient: Patient) -> None:
    patient.with_bookings()
    patient.ground.open()
    before = patient.ground.base_state()
    findings = patient.examine()
    assert findings.blocking == []
    assert "13 leaves (0 of them new)" in findings.one("ddl_rehearsal").evidence
    assert "5 columns match" in findings.one("base_table").evidence
    assert patient.ground.base_state() == before


def test_a_lock_that_somebody_holds_on_the_base_is_a_warning_and_no_long_wait(patient: Patient) -> None:
    patient.with_bookings()
    patient.ground.open()
    with psycopg.connect(patient.ground.databases.base_url) as holder:
        holder.execute("LOCK TABLE migration.slices IN SHARE UPDATE EXCLUSIVE MODE")
        finding = patient.examine().one("ddl_rehearsal")
    assert finding.severity is Severity.WARNING
    assert "conflicting lock" in finding.evidence


def test_measured_copies_are_used_for_the_estimate(patient: Patient) -> None:
    patient.ground.fill()
    patient.ground.open()
    patient.ground.copy(1)
    assert "the ledger has 1 copies" in patient.legacy("ANALYZE bookings").examine().one("window", "window").evidence
