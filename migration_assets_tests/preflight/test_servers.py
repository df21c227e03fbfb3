"""Servers and what the roles may do there."""

import re
import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import psycopg
import pytest
from psycopg import errors, sql

from migration_assets.domain.findings import Severity
from migration_assets.domain.session_places import SessionLimits, needed, weeks_at_once
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Connected
from migration_assets.preflight.servers import examine_version
from migration_assets_tests.freezes import patience
from migration_assets_tests.preflight.conftest import Findings, Patient


@dataclass(frozen=True)
class WeakRole:
    name: str
    password: str


@pytest.fixture
def weak(patient: Patient) -> Generator[WeakRole]:
    """A role on both servers that may log in and nothing else."""
    role = WeakRole(f"weak_{secrets.token_hex(4)}", secrets.token_hex(8))
    urls = (patient.ground.databases.legacy_url, patient.ground.databases.base_url)
    for url in urls:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role.name), sql.Literal(role.password)
                )
            )
    yield role
    for url in urls:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role.name)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role.name)))


def as_role(patient: Patient, role: WeakRole) -> Findings:
    login = f"://{role.name}:{role.password}@"
    databases = patient.ground.databases
    weakened = replace(
        databases,
        legacy_url=databases.legacy_url.replace("://migrator@", login),
        base_url=databases.base_url.replace("://migrator@", login),
    )
    return replace(patient, ground=replace(patient.ground, databases=weakened)).examine()


def test_a_role_without_rights_is_told_each_grant_that_it_lacks(patient: Patient, weak: WeakRole) -> None:
    patient.with_bookings()
    findings = as_role(patient, weak)
    for code, area, grant in (
        ("read_right", "legacy", f"GRANT SELECT ON public.bookings TO {weak.name}"),
        ("replication_right", "legacy", f"ALTER ROLE {weak.name} REPLICATION"),
        ("table_ownership", "legacy", f"GRANT migrator TO {weak.name}"),
        ("create_right", "legacy", "GRANT CREATE ON DATABASE"),
        ("base_rights", "base", f"GRANT USAGE, CREATE ON SCHEMA public TO {weak.name}"),
        ("subscription_right", "base", f"GRANT pg_create_subscription TO {weak.name}"),
        ("ddl_rehearsal", "base", "grant the role"),
    ):
        finding = findings.one(code, area)
        assert (finding.severity, grant in finding.remedy) == (Severity.BLOCKING, True), finding
    assert weak.password not in findings.text
    unexamined = [finding.code for finding in findings.all if "could not be examined" in finding.evidence]
    assert unexamined == ["control_values", "window"]  # they read rows


def test_row_security_that_hides_rows_from_the_role_is_refused(patient: Patient, weak: WeakRole) -> None:
    patient.with_bookings("ALTER TABLE bookings ENABLE ROW LEVEL SECURITY", "GRANT SELECT ON bookings TO PUBLIC")
    finding = as_role(patient, weak).one("row_security")
    assert finding.severity is Severity.BLOCKING
    assert "BYPASSRLS" in finding.remedy


def test_too_few_connections_are_refused_with_the_figures(patient: Patient) -> None:
    findings = patient.with_bookings().examine(parallel_copies=60)
    assert findings.blocking == ["connections", "connections"]
    table = needed(60)
    assert f"with 60 weeks at once up to {table.legacy} sessions" in findings.one("connections", "legacy").evidence
    assert f"up to {table.base} sessions on the base" in findings.one("connections", "base").evidence
    # Enough for first copies: what comes later is a warning, which names the limit that makes it fit.
    tight = patient.examine(parallel_copies=20, wanted_copies=24)
    assert tight.blocking == []
    finding = tight.one("connections", "legacy")
    assert finding.severity is Severity.WARNING
    assert "20 weeks at once (of 24: MIGRATION_LEGACY_SESSIONS" in finding.evidence
    found = re.search(r"MIGRATION_LEGACY_SESSIONS=(\d+)", finding.remedy)
    assert found is not None
    assert 1 <= weeks_at_once(20, SessionLimits(legacy=int(found[1]))) < 20


def test_only_minor_versions_that_were_proven_pass_as_legacy(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {
        140020: Severity.BLOCKING, 150019: Severity.BLOCKING, 150020: Severity.INFO, 160002: Severity.BLOCKING,
        160014: Severity.INFO, 170009: Severity.BLOCKING, 170010: Severity.INFO, 180003: Severity.BLOCKING,
        180004: Severity.INFO, 190000: Severity.WARNING,
    }  # fmt: skip
    found: dict[int, Severity] = {}
    with patient.ground.databases.session("legacy", "test") as legacy:
        for version in expected:

            def pretended(_: Connected, version: int = version) -> tuple[int, int]:
                return divmod(version, 10_000)

            monkeypatch.setattr("migration_assets.preflight.servers.version_of", pretended)
            found[version] = examine_version(legacy, "legacy")[0].severity
    assert found == expected


def test_used_up_replication_slots_are_refused(patient: Patient) -> None:
    patient.with_bookings()
    names = [f"taken_{number}" for number in range(21)]
    with psycopg.connect(patient.ground.databases.legacy_url, autocommit=True) as connection:
        try:
            # Others may hold some: of 20 all are taken in the end.
            with pytest.raises(errors.ConfigurationLimitExceeded):  # noqa: PT012 - which one is the last
                for name in names:
                    connection.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
            findings = patient.examine()
        finally:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = ANY(%s)",
                [names],
            )
    assert findings.blocking == ["replication_slots"]
    assert "max_replication_slots = 22" in findings.one("replication_slots").remedy


def test_a_slot_that_may_fill_the_disk_is_a_warning(patient: Patient) -> None:
    patient.with_bookings()

    def set_limit(connection: psycopg.Connection[tuple[object, ...]], value: str) -> None:
        connection.execute(sql.SQL("ALTER SYSTEM SET max_slot_wal_keep_size = {}").format(value))
        connection.execute("SELECT pg_reload_conf()")
        began = time.monotonic()
        while connection.execute("SHOW max_slot_wal_keep_size").fetchone() != (value,):
            assert time.monotonic() - began < patience(10)
            time.sleep(0.02)

    with psycopg.connect(patient.ground.databases.legacy_url, autocommit=True) as connection:
        try:
            set_limit(connection, "-1")
            finding = patient.examine().one("slot_wal_limit")
        finally:
            connection.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
            connection.execute("SELECT pg_reload_conf()")
    assert finding.severity is Severity.WARNING
    assert "until the disk is full" in finding.evidence


def test_a_base_of_another_encoding_is_told_and_the_probe_refuses_it(
    patient: Patient, servers: EmbeddedServers
) -> None:
    patient.with_bookings()
    name = f"latin_{secrets.token_hex(4)}"
    with psycopg.connect(patient.ground.databases.base_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'").format(
                sql.Identifier(name)
            )
        )
    try:
        databases = replace(patient.ground.databases, base_url=servers.base_url(name))
        findings = replace(patient, ground=replace(patient.ground, databases=databases)).examine()
    finally:
        servers.drop_database("base", name)
    assert findings.severity("encoding") is Severity.WARNING
    assert findings.blocking == ["fingerprint_probe"]


def test_a_base_that_refuses_writes_is_refused(patient: Patient) -> None:
    patient.with_bookings()
    with patient.ground.databases.session("base", "test") as base:
        base.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sql.Identifier(base.info.dbname))
        )
    findings = patient.examine()
    # Our own sessions write all the same; but triggers of the apply worker's would not.
    assert findings.severity("apply_worker_default_transaction_read_only") is Severity.BLOCKING
