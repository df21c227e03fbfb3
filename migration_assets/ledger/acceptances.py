"""Findings that a named person accepted: in the ledger, and each decision in the chain of evidence."""

from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.findings import Acceptance, Finding
from migration_assets.ledger.chain import append
from migration_assets.ledger.own_objects import ledger_has
from migration_assets.postgres.sessions import Connected


def read_acceptances(base: Connected, relation: str) -> list[Acceptance]:
    """All that are in force, the oldest first; none where there is no ledger yet, or an older one."""
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
    """Keep the decision about what the finding is about; a later one about a thing of that name replaces it."""
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
    """Take the decision back: the finding blocks again. Whether there was one."""
    with base.transaction():
        found = base.execute(
            "DELETE FROM migration.acceptances WHERE relation = %s AND code = %s AND subject = %s",
            [relation, code, subject],
        )
        if found.rowcount:
            payload = {"code": code, "subject": subject, "in_force": False}
            append(base, relation, ChainKind.ACCEPTANCE, payload)
    return bool(found.rowcount)
