"""A server with TLS: PostgreSQL's own build, since the embedded servers have none."""

import secrets
import shutil
import subprocess
from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migration_assets.domain.findings import Finding, Severity, blocking
from migration_assets.embedded.cluster import Cluster
from migration_assets.embedded.processes import own, server_user
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import run_preflight
from migration_assets_tests.ground import CALENDAR, SPEC
from migration_assets_tests.servers.versions import installed, new_cluster

_PLAN = PreflightPlan(as_of=datetime(2024, 6, 24, tzinfo=UTC))
_PROGRAMS = next(filter(None, map(installed, (15, 16, 17, 18))), None)
pytestmark = pytest.mark.skipif(
    _PROGRAMS is None or shutil.which("openssl") is None,
    reason="neither a build of PostgreSQL with TLS here nor openssl: install Debian's postgresql and openssl",
)


@pytest.fixture(scope="module")
def certificates(servers: EmbeddedServers) -> Path:
    """A folder that the server's user can read: its certificate, which is its own authority, and one of others."""
    folder = servers.var / f"tls-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o711)
    for name in ("server", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / f"{name}.key", "-out",
             folder / f"{name}.crt"],
            check=True, capture_output=True,
        )  # fmt: skip
    for path in (folder, *folder.iterdir()):
        own(path, server_user())
        if path.suffix == ".crt":
            path.chmod(0o644)
    return folder


@pytest.fixture(scope="module")
def encrypted(servers: EmbeddedServers, certificates: Path) -> Generator[Databases]:
    """Two databases of one server, with all that a client needs to be sure of it."""
    assert _PROGRAMS is not None
    folder, passfile = certificates, servers.address("base").passfile
    settings = {"ssl": "on", "ssl_cert_file": f"{folder}/server.crt", "ssl_key_file": f"{folder}/server.key",
                "fsync": "off"}  # fmt: skip
    like = Cluster("base", folder / "like", passfile, 0, _PROGRAMS, "other", server_user(), settings)
    cluster = new_cluster("base", _PROGRAMS, folder / "cluster", like, settings)
    try:
        port = cluster.start()
        password = passfile.read_text().strip().rsplit(":", 1)[1]
        sure = make_conninfo(
            "", host="localhost", port=port, user="migrator", password=password, sslmode="verify-full",
            sslrootcert=str(folder / "server.crt"),
        )  # fmt: skip
        with psycopg.connect(sure, dbname="postgres", autocommit=True) as admin:
            for name in ("tls_legacy", "tls_base"):
                admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield Databases(make_conninfo(sure, dbname="tls_legacy"), make_conninfo(sure, dbname="tls_base"))
    finally:
        cluster.end()


def found(databases: Databases, code: str, *, url_for_base: str | None = None) -> Finding:
    """The one finding about the way to the legacy or between the servers; nothing shows a password."""
    plan = replace(_PLAN, legacy_url_for_base=url_for_base)
    findings = run_preflight(databases, SPEC, CALENDAR, plan=plan)
    assert str(conninfo_to_dict(databases.base_url)["password"]) not in repr(findings)
    [finding] = [one for one in findings if one.code == code and one.area == _AREA[code]]
    return finding


_AREA = {"encryption": "legacy", "reachable": "legacy", "way_to_legacy": "base", "files_of_the_other_host": "base"}


@pytest.mark.long
def test_certificates_are_looked_for_on_the_host_that_connects(encrypted: Databases, certificates: Path) -> None:
    assert "asks for sslmode=verify-full; the connection has TLS" in found(encrypted, "encryption").evidence
    assert found(encrypted, "way_to_legacy").severity is Severity.INFO
    here = found(encrypted, "files_of_the_other_host")
    assert (here.severity, "sslrootcert" in here.evidence) == (Severity.INFO, True)

    # A path that is good on this machine alone: the base's server does not find it.
    away = make_conninfo(encrypted.legacy_url, sslrootcert="/home/ada/ca.pem")
    refused = found(encrypted, "way_to_legacy", url_for_base=away)
    assert refused.severity is Severity.BLOCKING
    assert "/home/ada/ca.pem" in refused.evidence
    assert "sslmode=verify-full" in refused.remedy
    missing = found(encrypted, "files_of_the_other_host", url_for_base=away)
    assert missing.severity is Severity.WARNING
    assert "MIGRATION_LEGACY_URL_FOR_BASE names sslrootcert: read on the host of the base's server" in missing.evidence

    # Bound to the password, where no authority is known.
    bound = make_conninfo(encrypted.legacy_url, sslmode="require", sslrootcert="", channel_binding="require")
    assert found(replace(encrypted, legacy_url=bound), "way_to_legacy").severity is Severity.INFO
    stranger = make_conninfo(encrypted.legacy_url, sslrootcert=str(certificates / "other.crt"))
    wrong = found(replace(encrypted, legacy_url=stranger), "reachable")
    assert blocking([wrong]) == [wrong]
    assert "certificate verify failed" in wrong.evidence
    assert "sslrootcert name the authority" in wrong.remedy
