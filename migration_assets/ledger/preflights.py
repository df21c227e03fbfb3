"""Keeps every preflight and every accepted finding in the ledger; the newest preflight gates all that follows.

Each acceptance, and its withdrawal, is a record in the chain of evidence.
"""

from dataclasses import asdict
from datetime import datetime

from psycopg.types.json import Jsonb

from migration_assets.domain.errors import PreflightError
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.findings import Acceptance, Area, Finding, Severity, blocking, with_acceptances
from migration_assets.ledger.chain import append
from migration_assets.ledger.own_objects import ledger_has
from migration_assets.postgres.sessions import Connected


def read_acceptances(base: Connected, relation: str) -> list[Acceptance]:
    """All acceptances in force, the oldest first; none where there is no ledger yet, or an older one."""
    if not ledger_has(base, "acceptances"):
        return []
    rows = base.execute(
        "SELECT code, subject, accepted_by, reason, accepted_at, digest FROM migration.acceptances WHERE relation = %s"
        " ORDER BY accepted_at, code, subject",
        [relation],
    )
    return [Acceptance(*row) for row in rows]


def record_acceptance(
    base: Connected, relation: str, finding: Finding, *, by: str, reason: str, run_id: str | None = None
) -> None:
    """Keep a decision about one finding; a later decision about the same thing replaces it."""
    code, subject = finding.code, finding.subject
    with base.transaction():
        base.execute(
            "INSERT INTO migration.acceptances (relation, code, subject, accepted_by, reason, digest)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (relation, code, subject) DO UPDATE SET"
            " accepted_by = excluded.accepted_by, reason = excluded.reason, digest = excluded.digest,"
            " accepted_at = excluded.accepted_at",
            [relation, code, subject, by, reason, finding.digest],
        )
        payload = {"code": code, "subject": subject, "accepted_by": by, "reason": reason, "in_force": True,
                   "definition": finding.definition}  # fmt: skip
        append(base, relation, ChainKind.ACCEPTANCE, payload, run_id=run_id)


def withdraw_acceptance(base: Connected, relation: str, code: str, subject: str) -> bool:
    """Take the decision back, so that the finding blocks again; returns whether there was one."""
    with base.transaction():
        found = base.execute(
            "DELETE FROM migration.acceptances WHERE relation = %s AND code = %s AND subject = %s",
            [relation, code, subject],
        )
        if found.rowcount:
            payload = {"code": code, "subject": subject, "in_force": False}
            append(base, relation, ChainKind.ACCEPTANCE, payload)
    return bool(found.rowcount)


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
    """When the newest preflight was taken and what it found, or None; accepted findings are shown as warnings."""
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
            # A program that did not note it yet did not know acceptances either.
            f.get("definition") or f["evidence"],
        )
        for f in row[1]
    ]
    return row[0], with_acceptances(found, read_acceptances(connection, relation))


def require_preflight(connection: Connected, relation: str) -> None:
    """Refuse where no preflight was taken, or where it has findings that block.

    Raises:
        PreflightError: No preflight was taken, or the newest one has blocking findings, which the error lists.
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
