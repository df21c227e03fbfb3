"""What the catalogue tells of the table: key, control column, indexes, and all that has no place in the base."""

import secrets
from dataclasses import replace

import psycopg
import pytest

from migration_assets.domain.findings import Severity
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.preflight.conftest import Patient


def test_a_table_without_primary_key_is_refused_and_a_unique_index_is_offered(patient: Patient) -> None:
    patient.with_bookings(
        "ALTER TABLE bookings DROP CONSTRAINT bookings_pkey", "CREATE UNIQUE INDEX one ON bookings (id)"
    )
    findings = patient.examine()
    assert findings.blocking == ["primary_key"]
    assert "ADD PRIMARY KEY USING INDEX one" in findings.one("primary_key").remedy
    assert findings.severity("ddl_rehearsal") is Severity.WARNING


def test_a_control_column_that_is_missing_or_of_another_type_is_refused_with_the_choice(patient: Patient) -> None:
    patient.with_bookings()
    missing = patient.table("bookings", "Booked_At").examine()
    assert missing.blocking == ["control_column"]
    assert "booked_at" in missing.one("control_column").remedy
    assert patient.table("bookings", "guests").examine().blocking == ["control_column"]


def test_a_control_column_of_a_domain_is_refused_because_no_publication_could_filter_by_it(patient: Patient) -> None:
    patient.with_bookings("CREATE DOMAIN moment AS timestamptz", "ALTER TABLE bookings ALTER booked_at TYPE moment")
    finding = patient.examine().one("control_column")
    assert finding.severity is Severity.BLOCKING
    assert "TYPE timestamp with time zone" in finding.remedy


def test_all_that_hangs_on_the_table_is_listed_by_kind_with_a_remedy(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE TABLE rooms (id int PRIMARY KEY)",
        "ALTER TABLE bookings ADD room int REFERENCES rooms",
        "CREATE TABLE bills (booking bigint REFERENCES bookings)",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER touch_it BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE RULE keep AS ON DELETE TO bookings WHERE OLD.guests = 99 DO INSTEAD NOTHING",
        "ALTER TABLE bookings ADD CONSTRAINT apart EXCLUDE USING btree (id WITH =)",
        "CREATE POLICY mine ON bookings USING (guests > 1)",
        "CREATE STATISTICS together ON guests, room FROM bookings",
        "ALTER TABLE bookings ADD CONSTRAINT few CHECK (guests < 1000) NOT VALID",
        "GRANT SELECT ON bookings TO PUBLIC",
    )
    findings = patient.examine()
    warnings = {
        "incoming_foreign_key": "on public.bills", "outgoing_foreign_key": "REFERENCES public.rooms",
        "trigger": "touch_it", "rule": "keep", "exclusion_constraint": "apart", "row_security_policy": "mine",
        "unvalidated_check": "few", "privilege": "SELECT to PUBLIC",
    }  # fmt: skip
    for code, name in warnings.items():
        finding = findings.one(code)
        assert (finding.severity, name in finding.evidence) == (Severity.WARNING, True), finding
    assert findings.severity("extended_statistics") is Severity.INFO
    assert findings.blocking == ["redirecting_rule"]
    assert findings.one("redirecting_rule").acceptable
    absent = findings.one("not_carried").evidence
    assert ("no child table" in absent, "no trigger" in absent, "no event trigger" in absent) == (True, False, True)


def test_inheritance_and_unlogged_tables_are_refused(patient: Patient) -> None:
    patient.with_bookings("CREATE TABLE heirs () INHERITS (bookings)")
    assert patient.examine().blocking == ["child_table"]
    patient.legacy("ALTER TABLE heirs ADD PRIMARY KEY (id)", "CREATE INDEX ON heirs (booked_at)", "ANALYZE heirs")
    assert patient.table("heirs").examine().blocking == ["parent_table"]
    patient.legacy("DROP TABLE heirs", "ALTER TABLE bookings SET UNLOGGED")
    assert patient.examine().blocking == ["unlogged_table"]


def test_a_unique_index_without_the_control_column_and_an_invalid_index_are_warnings(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE UNIQUE INDEX bookings_number ON bookings (guests)",
        "CREATE UNIQUE INDEX bookings_fine ON bookings (guests, booked_at)",
        "CREATE INDEX half_built ON bookings (note)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half_built'::regclass",
    )
    findings = patient.examine()
    assert findings.blocking == []
    assert findings.one("unique_indexes").evidence.endswith(": bookings_number")
    assert findings.severity("unique_indexes") is Severity.WARNING
    assert "half_built" in findings.one("invalid_indexes").evidence
    assert "REINDEX INDEX CONCURRENTLY public.half_built" in findings.one("invalid_indexes").remedy


def test_a_column_whose_bytes_mean_something_else_elsewhere_is_told_to_travel_as_text(patient: Patient) -> None:
    patient.with_bookings("ALTER TABLE bookings ADD kind regtype")
    finding = patient.examine().one("copy_format")
    assert finding.severity is Severity.INFO
    assert finding.evidence.endswith(": kind")


def test_what_the_replica_identity_costs_is_said_in_figures(patient: Patient) -> None:
    patient.with_bookings("UPDATE bookings SET guests = guests + 1")
    finding = patient.examine().one("replica_identity")
    assert finding.severity is Severity.INFO
    assert "it is the primary key" in finding.evidence
    assert "a day" in finding.evidence
    patient.legacy("ALTER TABLE bookings REPLICA IDENTITY FULL")
    assert "FULL already" in patient.examine().one("replica_identity").evidence


def test_generated_columns_are_refused_where_full_identity_would_stop_the_writers(
    patient: Patient, servers: EmbeddedServers
) -> None:
    stored = "ALTER TABLE bookings ADD doubled int GENERATED ALWAYS AS (guests * 2) STORED"
    patient.with_bookings(stored)
    assert patient.examine().severity("generated_columns") is Severity.INFO  # PostgreSQL 16 allows it
    name = f"test_{secrets.token_hex(6)}"
    servers.recreate_database("base", name)
    try:
        urls = Databases(servers.base_url(name), patient.ground.databases.base_url)
        on_18 = replace(patient, ground=replace(patient.ground, databases=urls)).with_bookings(stored)
        finding = on_18.examine().one("generated_columns")
        assert finding.severity is Severity.BLOCKING
        assert "DROP EXPRESSION" in finding.remedy
        # What it is about: PostgreSQL itself.
        on_18.legacy("ALTER TABLE bookings REPLICA IDENTITY FULL", "CREATE PUBLICATION p FOR TABLE bookings")
        with pytest.raises(psycopg.Error, match="generated columns"):
            on_18.legacy("UPDATE bookings SET guests = 0")
    finally:
        servers.drop_database("base", name)
