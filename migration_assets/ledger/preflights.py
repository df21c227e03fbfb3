"""Keeps every preflight in the ledger; the newest one is the gate for all that follows."""

from dataclasses import asdict
from datetime import datetime

from psycopg.types.json import Jsonb

from migration_assets.domain.errors import PreflightError
from migration_assets.domain.findings import Area, Finding, Severity, blocking, with_acceptances
from migration_assets.ledger.acceptances import read_acceptances
from migration_assets.postgres.sessions import Connected


def record_preflight(connection: Connected, relation: str, findings: list[Finding], run_id: str | None) -> None:
    """Append one preflight."""
    connection.execute(
        "INSERT INTO migration.preflights (relation, run_id, blocking, warnings, findings) VALUES (%s, %s, %s, %s, %s)",
        [
            relation,
            run_id,
            len(blocking(findings)),
            sum(finding.severity is Severity.WARNING for finding in findings),
            Jsonb([asdict(finding) for finding in findings]),
        ],
    )


def latest_preflight(connection: Connected, relation: str) -> tuple[datetime, list[Finding]] | None:
    """When the newest preflight was taken and what it found, or None; what was accepted since is a warning."""
    row = connection.execute(
        "SELECT taken_at, findings FROM migration.preflights WHERE relation = %s ORDER BY id DESC LIMIT 1", [relation]
    ).fetchone()
    if row is None:
        return None
    found = [
        Finding(
            f["code"],
            Area(f["area"]),
            Severity(f["severity"]),
            f["evidence"],
            f["remedy"],
            f.get("subject", ""),
            f.get("acceptable", False),
            # A program that did not note it yet could not tell what was accepted either.
            f.get("definition") or f["evidence"],
        )
        for f in row[1]
    ]
    return row[0], with_acceptances(found, read_acceptances(connection, relation))


def require_preflight(connection: Connected, relation: str) -> None:
    """The gate.

    Raises:
        PreflightError: No preflight was taken, or the newest one has blocking findings, which are listed.
    """
    latest = latest_preflight(connection, relation)
    if latest is None:
        raise PreflightError(
            "no preflight was taken",
            where=relation,
            state_left="nothing was touched",
            next_step="materialize the asset `preflight`, or run `migration-assets preflight`",
        )
    stops = blocking(latest[1])
    if stops:
        raise PreflightError(
            "preflight has blocking findings: " + "; ".join(f"{f.code}: {f.evidence}" for f in stops),
            where=relation,
            state_left="nothing was touched",
            next_step="; ".join(f.remedy for f in stops) + "; then materialize `preflight` again",
        )
