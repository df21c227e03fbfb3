"""Preflight as a whole: a clean legacy, unreachable databases, and nothing left behind."""

from dataclasses import replace

import psycopg

from migration_assets.domain.findings import Severity, worst_first
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.embedded.bookings import AS_OF, create_bookings
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.preflight.conftest import Patient, catalogue_counts


def urls(patient: Patient) -> Databases:
    return patient.ground.databases


def test_the_demo_has_no_blocking_finding_and_nothing_is_left_behind_in_either_database(patient: Patient) -> None:
    with psycopg.connect(urls(patient).legacy_url, autocommit=True) as connection:
        create_bookings(connection, rows=2_000)
    demo = patient.table("public.amenity_bookings")
    before = [catalogue_counts(urls(patient).legacy_url), catalogue_counts(urls(patient).base_url)]

    findings = demo.examine(as_of=AS_OF)

    assert findings.blocking == []
    assert findings.warnings == []
    assert findings.all == worst_first(findings.all)
    assert "13 leaves (13 of them new) with 6 indexes each and 2 user types" in findings.one("ddl_rehearsal").evidence
    assert [catalogue_counts(urls(patient).legacy_url), catalogue_counts(urls(patient).base_url)] == before


def test_everything_that_was_examined_has_exactly_one_finding_even_when_all_is_well(patient: Patient) -> None:
    findings = patient.with_bookings().examine()
    assert findings.blocking == []
    assert sorted((str(f.area), f.code) for f in findings.all) == [
        *(("base", code) for code in (
            "alterations_right", "apply_worker_settings", "apply_workers", "base_owner", "base_rights", "base_table",
            "base_writable", "collation",
            "collations", "connections", "ddl_rehearsal", "encoding", "encryption", "encryption_between",
            "files_of_the_other_host", "fingerprint_probe", "follower_in_base",
            "foreign_publication_in_base", "hosts", "known_server", "other_writers_in_base",
            "own_schema", "quarantine", "reachable",
            "replication_origins",
            "standbys", "subscription_right", "time_zone", "two_databases", "type_meaning", "types",
            "updates_refused", "version", "version_order", "way_to_legacy",
            "worker_processes")),
        *(("data", code) for code in (
            "beyond_last_partition", "control_infinities", "control_nulls", "outside_calendar", "rows_ahead")),
        *(("legacy", code) for code in (
            "connections", "create_right", "encryption", "encryption_between", "files_of_the_other_host", "follower",
            "foreign_publication", "hosts", "in_recovery", "known_server", "other_writers",
            "own_schema", "reachable", "read_right", "replication_right", "replication_slots", "row_hash",
            "row_security", "slot_wal_limit", "standbys", "table_ownership", "updates_refused", "version", "wal_level",
            "wal_senders", "walsender_settings")),
        *(("table", code) for code in (
            "control_column", "copy_format", "generated_columns", "identity_columns", "invalid_indexes", "not_carried",
            "primary_key", "replica_identity", "table", "unique_indexes")),
        *(("window", code) for code in ("control_index", "physical_order", "sizes", "target_rate", "window")),
    ]  # fmt: skip


def test_a_wrong_password_is_a_finding_that_does_not_show_it_and_the_other_side_is_still_examined(
    patient: Patient,
) -> None:
    wrong = replace(
        urls(patient), base_url=urls(patient).base_url.replace("://migrator@", "://migrator:tr0ub4dor%263@")
    )
    patient.with_bookings()
    findings = replace(patient, ground=replace(patient.ground, databases=wrong)).examine()
    assert findings.blocking == ["reachable"]
    assert "127.0.0.1" in findings.one("reachable", "base").evidence
    assert "password authentication failed" in findings.one("reachable", "base").evidence
    assert findings.severity("window", "window") is Severity.INFO
    assert "tr0ub4dor" not in findings.text


def test_a_server_that_does_not_run_is_a_finding_with_its_host_and_port(patient: Patient) -> None:
    gone = replace(urls(patient), legacy_url="postgresql://somebody:hunter2@127.0.0.1:1/nowhere")
    findings = replace(patient, ground=replace(patient.ground, databases=gone)).examine()
    assert findings.blocking == ["reachable"]
    assert "127.0.0.1:1, database nowhere" in findings.one("reachable", "legacy").evidence
    assert findings.severity("base_writable") is Severity.INFO
    assert "hunter2" not in findings.text


def test_a_url_that_cannot_be_parsed_is_a_finding_that_quotes_none_of_it(patient: Patient) -> None:
    broken = replace(urls(patient), legacy_url="postgresql://somebody:hunter2%zz@127.0.0.1/db")
    findings = replace(patient, ground=replace(patient.ground, databases=broken)).examine()
    assert findings.one("reachable", "legacy").severity is Severity.BLOCKING
    assert "hunter2" not in findings.text


def test_a_missing_table_names_one_of_the_same_letters(patient: Patient) -> None:
    patient.legacy('CREATE TABLE public."Bookings" (id int)')
    findings = patient.examine()
    assert 'public."Bookings"' in findings.one("table").evidence
    assert findings.blocking == ["table"]


def test_a_table_that_is_no_table_is_refused_by_its_kind(patient: Patient) -> None:
    patient.with_bookings("CREATE VIEW v AS SELECT * FROM bookings",
                          "CREATE TABLE p (booked_at date) PARTITION BY RANGE (booked_at)")  # fmt: skip
    assert "is a view" in patient.table("v").examine().one("table").evidence
    findings = patient.table("p").examine()
    assert "is a partitioned table" in findings.one("table").evidence
    assert findings.blocking == ["table"]


def test_a_table_with_odd_names_is_examined_like_any_other(patient: Patient) -> None:
    patient.legacy(
        'CREATE SCHEMA "Odd %s"; CREATE TABLE "Odd %s"."Ta""ble" ("K""ey" int PRIMARY KEY, "At %" date NOT NULL)'
    )
    spec = TableSpec(QualifiedName("Odd %s", 'Ta"ble'), "At %")
    findings = replace(patient, ground=replace(patient.ground, spec=spec)).examine()
    assert findings.blocking == []
    assert '"At %"' in findings.one("control_index").remedy
