"""Rows for which the base has no place yet: counted by an index, else read from the statistics, which is said."""

from dataclasses import replace
from typing import LiteralString

import pytest

from migration_assets.domain.findings import Severity
from migration_assets_tests.ground import BOOKINGS, QUARTER
from migration_assets_tests.preflight.conftest import Patient

CODE = "beyond_last_partition"
FAR: LiteralString = "INSERT INTO bookings (booked_at) VALUES ('2024-07-01 00:00Z'), ('2031-01-01Z')"
NO_INDEX: LiteralString = "DROP INDEX bookings_booked_at_idx"


def opened(patient: Patient) -> Patient:
    patient.ground.open(QUARTER)
    return patient


def test_before_any_quarter_is_open_there_is_nothing_to_warn_of(patient: Patient) -> None:
    finding = patient.with_bookings(FAR).examine().one(CODE)
    assert (finding.severity, finding.evidence) == (Severity.INFO, "no quarter is open in the base yet")


def test_rows_beyond_the_last_partition_warn_and_the_remedy_says_that_the_stream_goes_on(patient: Patient) -> None:
    finding = opened(patient.with_bookings(FAR)).examine().one(CODE)
    assert finding.severity is Severity.WARNING
    assert finding.evidence.startswith("2 rows lie beyond it, e.g. 2031-01-01")
    assert "the last open partition is FY25-Q2|W13, to 2024-07-01" in finding.evidence
    assert "the stream does not stop for them" in finding.remedy
    assert "estimate" not in finding.evidence


def test_when_their_quarter_is_open_they_are_no_matter_any_more(patient: Patient) -> None:
    last = "INSERT INTO bookings (booked_at) VALUES ('2024-09-30 23:59:59.999999Z')"
    opened(patient.with_bookings(last)).ground.open(QUARTER.next)
    finding = patient.examine().one(CODE)
    assert (finding.severity, finding.evidence[:24]) == (Severity.INFO, "no row lies beyond it; t")


def test_an_infinite_time_is_another_findings_business(patient: Patient) -> None:
    findings = opened(patient.with_bookings("INSERT INTO bookings (booked_at) VALUES ('infinity')")).examine()
    assert findings.severity(CODE) is Severity.INFO
    assert findings.severity("control_infinities") is Severity.BLOCKING


def test_without_an_index_the_statistics_are_asked_and_it_is_said_that_it_is_an_estimate(patient: Patient) -> None:
    finding = opened(patient.with_bookings(FAR, NO_INDEX)).examine().one(CODE)
    assert finding.severity is Severity.WARNING
    assert "the newest row that ANALYZE saw is of 2031-01-01" in finding.evidence
    assert "an estimate" in finding.evidence
    patient.legacy("DELETE FROM bookings WHERE booked_at > '2024-06-30Z'", "ANALYZE bookings")
    finding = patient.examine().one(CODE)
    assert finding.severity is Severity.INFO
    assert "no row is known to lie beyond it" in finding.evidence


@pytest.mark.parametrize("kind", ["date", "timestamp"])
def test_a_column_of_another_type_is_asked_alike(patient: Patient, kind: LiteralString) -> None:
    patient.legacy(BOOKINGS.replace("timestamptz", kind), "INSERT INTO bookings (booked_at) VALUES ('2024-04-02')")
    patient.legacy("INSERT INTO bookings (booked_at) VALUES ('2024-07-01')", "ANALYZE bookings")
    opened(patient)
    assert patient.examine().severity(CODE) is Severity.WARNING
    assert patient.legacy(NO_INDEX).examine().severity(CODE) is Severity.WARNING


def test_a_table_that_was_never_analyzed_is_not_known(patient: Patient) -> None:
    patient.legacy(BOOKINGS, "ALTER TABLE bookings SET (autovacuum_enabled = off)", FAR, NO_INDEX)
    finding = opened(patient).examine().one(CODE)
    assert (finding.severity, "never analyzed" in finding.evidence) == (Severity.INFO, True)


def test_a_base_that_is_away_leaves_the_question_out(patient: Patient) -> None:
    away = replace(patient.ground.databases, base_url="postgresql://nobody@127.0.0.1:1/nothing")
    patient.with_bookings(FAR)
    findings = replace(patient, ground=replace(patient.ground, databases=away)).examine()
    assert CODE not in {finding.code for finding in findings.all}
