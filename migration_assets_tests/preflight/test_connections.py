"""Connections that are not what they seem: two URLs of one database, several hosts, encryption, the servers' own."""

import secrets
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import prepare_reverse, reverse_names
from migration_assets.domain.errors import MigrationError, StreamError
from migration_assets.domain.findings import Severity, blocking
from migration_assets.ledger.stream import StreamNames
from migration_assets.postgres.sessions import Databases, Side, Timeouts, connect
from migration_assets.preflight.run import examine
from migration_assets.preflight.ways import (
    ServersAddress,
    examine_encryption_between,
    examine_files,
    examine_standbys,
    judge_encryption,
)
from migration_assets.stream.joining import join_stream
from migration_assets.stream.way import require_way
from migration_assets_tests.ground import QUARTER, Ground
from migration_assets_tests.preflight.conftest import Patient, catalogue_counts
from migration_assets_tests.servers.drill import migration

_WAYS: tuple[tuple[Side, Side], ...] = (("legacy", "base"), ("base", "legacy"))
_TRACES = (
    "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'migration%')"
    " + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())"
)


def url_of(url: str, **changes: str) -> str:
    """The same database, said in another way; the file of passwords has one for 127.0.0.1 alone."""
    file = conninfo_to_dict(url).get("passfile")
    password = {} if file is None else {"password": Path(str(file)).read_text().strip().rsplit(":", 1)[1]}
    return make_conninfo(url, **{**password, **changes})


@pytest.fixture
def copy_of_legacy(ground: Ground) -> Generator[str]:
    """The URL of a database that is made of the legacy when it is asked for: with all its tables and publications."""
    url = ground.databases.legacy_url
    name, here = f"copy_{secrets.token_hex(4)}", conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url_of(url, dbname="postgres"), autocommit=True) as admin:
        ground.fill(91)
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(str(here))))
        yield url_of(url, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_two_urls_of_one_database_are_told_by_what_answers(patient: Patient) -> None:
    patient.with_bookings()
    urls = patient.ground.databases
    for same in (url_of(urls.legacy_url, host="localhost"), url_of(urls.legacy_url, application_name="other")):
        ground = replace(patient.ground, databases=Databases(urls.legacy_url, same))
        finding = replace(patient, ground=ground).examine().one("two_databases")
        assert (finding.severity, "the same database" in finding.evidence) == (Severity.BLOCKING, True)
        # Also the ledger stays away from there, which preflight else makes in the base.
        there = replace(migration(patient.ground), databases=ground.databases)
        before = catalogue_counts(urls.legacy_url)
        assert "two_databases" in {one.code for one in blocking(examine(there).findings)}
        assert catalogue_counts(urls.legacy_url) == before
    with pytest.raises(MigrationError, match="partitioned"):
        ground.open()


def test_two_databases_of_one_server_are_two(patient: Patient, copy_of_legacy: str) -> None:
    ground = replace(patient.ground, databases=Databases(copy_of_legacy, patient.ground.databases.legacy_url))
    finding = replace(patient, ground=ground).examine().one("two_databases")
    assert (finding.severity, "on one server" in finding.evidence) == (Severity.INFO, True)


def test_who_reads_changes_before_he_has_a_slot_is_no_standby(patient: Patient) -> None:
    url = patient.ground.databases.legacy_url
    with (
        closing(connect(url, "a reader", Timeouts(), replication=True)),
        patient.ground.databases.session("legacy", "test") as legacy,
    ):
        assert legacy.execute("SELECT count(*) >= 1 FROM pg_stat_replication").fetchone() == (True,)
        [found] = examine_standbys(legacy, "legacy")
    assert (found.severity, found.evidence) == (Severity.INFO, "the legacy has no standby and no physical slot")


def test_a_url_of_several_hosts_must_ask_for_the_primary(patient: Patient) -> None:
    urls = patient.ground.databases
    port = str(conninfo_to_dict(urls.base_url)["port"])
    several = {"host": "127.0.0.1,localhost", "port": f"{port},{port}"}
    for more, severity in (({}, Severity.WARNING), ({"target_session_attrs": "any"}, Severity.WARNING),
                           ({"target_session_attrs": "read-write"}, Severity.INFO),
                           ({"target_session_attrs": "primary"}, Severity.INFO)):  # fmt: skip
        databases = replace(urls, base_url=url_of(urls.base_url, **several, **more))
        findings = replace(patient, ground=replace(patient.ground, databases=databases)).examine(
            base_url_for_legacy=databases.base_url
        )
        for code in ("hosts", "hosts_between"):
            finding = findings.one(code, "base")
            assert finding.severity is severity, finding
            assert "127.0.0.1, localhost" in finding.evidence


@pytest.mark.long
def test_the_bases_server_must_reach_the_legacy_and_no_copy_of_it(patient: Patient, copy_of_legacy: str) -> None:
    ground, secret = patient.ground, secrets.token_hex(8)
    elsewhere = patient.examine(legacy_url_for_base=copy_of_legacy).one("way_to_legacy")
    assert elsewhere.severity is Severity.WARNING
    assert "it is another one" in elsewhere.evidence
    assert "MIGRATION_LEGACY_URL_FOR_BASE" in elsewhere.remedy

    nowhere = url_of(ground.databases.legacy_url, port="1", password=secret)
    findings = patient.examine(legacy_url_for_base=nowhere)
    assert findings.blocking == ["way_to_legacy"]
    assert "MIGRATION_LEGACY_URL_FOR_BASE, does not reach the legacy" in findings.one("way_to_legacy").evidence
    assert secret not in findings.text
    no_tls = patient.examine(legacy_url_for_base=url_of(ground.databases.legacy_url, sslmode="require"))
    assert no_tls.blocking == ["way_to_legacy"]
    assert "sslmode=require" in no_tls.one("way_to_legacy").remedy
    assert patient.examine(legacy_url_for_base=url_of(ground.databases.legacy_url, host="localhost")).blocking == []

    ground.copy_all()
    before = ground.one("legacy", _TRACES)
    wrong = replace(ground.plan, legacy_url_for_base=copy_of_legacy)
    with pytest.raises(StreamError, match="the base's server reaches another database than MIGRATION_LEGACY_URL"):
        join_stream(wrong, QUARTER)
    assert ground.one("legacy", _TRACES) == before
    assert ground.ask("base", "SELECT 1 FROM pg_subscription JOIN pg_database d ON d.oid = subdbid"
                              " WHERE datname = current_database()") == []  # fmt: skip
    assert ground.ask("base", "SELECT status FROM migration.streams") == []

    # What a killed start left is gone with the next one; what one that lives has made is not.
    mine = ground.one("legacy", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    marks = [f"migration_assets_way_{pid}_{secrets.token_hex(6)}" for pid in (mine, 0)]
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as other:
        for mark in marks:
            other.execute(sql.SQL("CREATE PUBLICATION {}").format(sql.Identifier(mark)))
    join_stream(replace(ground.plan, legacy_url_for_base=ground.databases.legacy_url), QUARTER)
    left = "SELECT pubname FROM pg_publication WHERE pubname LIKE 'migration_assets_way%'"
    assert ground.ask("legacy", left) == [(marks[0],)]


def test_the_legacys_server_must_reach_the_base_before_a_cutover_changes_anything(ground: Ground) -> None:
    ground.fill(91)
    ground.streamed()
    names = reverse_names(StreamNames(*[ground.stream_record().slot] * 3))
    wrong = CutoverPlan(ground.plan, base_url_for_legacy=ground.databases.legacy_url)
    before = ground.one("base", _TRACES)
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        with pytest.raises(StreamError, match="the legacy's server reaches another database than MIGRATION_BASE_URL"):
            prepare_reverse(base, legacy, wrong, names)
        assert ground.one("base", _TRACES) == before
        # A role that hears of no warnings is asked all the same.
        base.execute("SET client_min_messages = 'error'")
        legacy.execute("SET client_min_messages = 'error'")
        with pytest.raises(StreamError, match="another database"):
            require_way(legacy, base, ground.databases.base_url, to="legacy")
        require_way(legacy, base, ground.databases.legacy_url, to="legacy")


@pytest.mark.parametrize(
    ("host", "asked", "tls", "gss", "good"),
    [
        ("10.0.0.7", {"sslmode": "verify-full"}, True, False, True),
        ("10.0.0.7", {"sslmode": "verify-ca"}, True, False, False),
        ("10.0.0.7", {"sslmode": "require"}, True, False, False),
        ("10.0.0.7", {"sslmode": "require", "channel_binding": "require"}, True, False, True),
        ("10.0.0.7", {"sslmode": "prefer"}, False, False, False),
        ("10.0.0.7", {"sslmode": "prefer"}, False, True, True),
        ("127.8.0.1", {"sslmode": "disable"}, False, False, True),
        ("::1", {}, False, False, True),
        ("/var/run/postgresql", {}, False, False, True),
    ],
)
def test_whoever_is_reached_over_a_network_is_asked_who_he_is(
    host: str, asked: dict[str, str], tls: bool, gss: bool, good: bool
) -> None:
    finding = judge_encryption("base", host, asked, tls=tls, gss=gss)
    assert finding.severity is (Severity.INFO if good else Severity.WARNING)
    assert f"sslmode={asked.get('sslmode', 'prefer')}" in finding.evidence
    if gss or host != "10.0.0.7":
        return
    for to, reader in _WAYS:
        address = ServersAddress("MIGRATION_X", url_of("", host=host, user="u", password="s3cret", **asked), to, True)
        between = examine_encryption_between(address)[0]
        assert between.severity is (Severity.INFO if good else Severity.WARNING)
        assert f"the {reader}'s server reaches the {to}" in between.evidence
        assert "s3cret" not in repr((between, address))


def test_files_that_a_servers_url_names_lie_on_the_host_of_that_server() -> None:
    url = url_of("", host="db", sslrootcert="/home/ada/ca.pem", sslcert="/c", sslkey="/k", sslpassword="s3cret")
    for side, reader in _WAYS:
        for own in (False, True):
            [finding] = examine_files(ServersAddress("MIGRATION_X_URL", url, side, own), works=False)
            assert finding.severity is Severity.WARNING
            assert f"sslrootcert and sslcert and sslkey: read on the host of the {reader}'s server" in finding.evidence
            wanted = "MIGRATION_X_URL" if own else f"MIGRATION_{side.upper()}_URL_FOR_{reader.upper()}"
            assert wanted in finding.remedy
            assert "s3cret" not in repr(finding)
    for fine in (url_of("", host="db", sslrootcert="system"), make_conninfo("", host="db", passfile="/p")):
        assert examine_files(ServersAddress("X", fine, "legacy", True), works=False)[0].severity is Severity.INFO
    assert examine_files(ServersAddress("X", url, "legacy", True), works=True)[0].severity is Severity.INFO
    assert "service" in examine_files(ServersAddress("X", "service=legacy", "legacy", True), works=False)[0].evidence


def test_a_server_without_tls_is_told_with_what_to_do_about_it(patient: Patient) -> None:
    urls, secret = patient.ground.databases, secrets.token_hex(8)
    for asked in ({"sslmode": "require"}, {"sslmode": "verify-full", "sslrootcert": "system"},
                  {"channel_binding": "require"}):  # fmt: skip
        for password in ({}, {"password": secret}):
            wrong = replace(urls, legacy_url=url_of(urls.legacy_url, **asked, **password))
            findings = replace(patient, ground=replace(patient.ground, databases=wrong)).examine()
            finding = findings.one("reachable", "legacy")
            assert finding.severity is Severity.BLOCKING
            assert f"the connection asks for sslmode={asked.get('sslmode', 'prefer')}" in finding.remedy, finding
            assert "ssl = on" in finding.remedy
            assert secret not in findings.text
