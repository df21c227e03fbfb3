"""A person accepts a finding that blocks, or takes that back."""

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.findings import Acceptance, Finding
from migration_assets.ledger.acceptances import read_acceptances, record_acceptance, withdraw_acceptance
from migration_assets.ledger.preflights import latest_preflight
from migration_assets.ledger.schema import ensure_ledger, require_ledger
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.runtime import Migration


class AcceptanceError(MigrationError):
    """What was to be accepted is no finding that can be accepted; nothing was changed."""


def accept_finding(
    migration: Migration, code: str, subject: str, *, by: str, reason: str, run_id: str | None = None
) -> None:
    """Go on in spite of this one finding about this one thing, from now on, as long as it stays what it was then.

    Args:
        migration: Which migration.
        code: The finding's code, e.g. `incoming_foreign_key`.
        subject: The name of the thing, as the finding prints it.
        by: Who answers for it.
        reason: Why it may be so.
        run_id: Noted in the chain of evidence.

    Raises:
        AcceptanceError: Neither the newest preflight nor readiness has such a finding; lists those that they have.
    """
    if not by.strip() or not reason.strip():
        raise AcceptanceError("a name and a reason are needed", state_left="nothing was changed", next_step="give both")
    relation = migration.spec.relation
    with migration.databases.session("base", "accept") as base:
        ensure_ledger(base)
        latest = latest_preflight(base, relation)
    offered = _offered(latest[1] if latest else [])
    if (code, subject) not in offered:
        offered |= _offered(examine_cutover(migration).findings)
    if (code, subject) not in offered:
        listed = "; ".join(f"{one} {about}" for one, about in offered) or "nothing at present"
        raise AcceptanceError(
            f"no finding {code} about {subject} waits to be accepted. What does: {listed}",
            where=relation,
            state_left="nothing was changed",
            next_step="run `migration-assets preflight` and `migration-assets readiness`, and copy code and name",
        )
    with migration.databases.session("base", "accept") as base:
        record_acceptance(base, relation, offered[code, subject], by=by.strip(), reason=reason.strip(), run_id=run_id)


def withdraw(migration: Migration, code: str, subject: str) -> None:
    """Take an acceptance back: from the next look on the finding blocks again.

    Raises:
        AcceptanceError: It was never accepted.
    """
    with migration.databases.session("base", "accept") as base:
        ensure_ledger(base)
        if not withdraw_acceptance(base, migration.spec.relation, code, subject):
            raise AcceptanceError(
                f"{code} about {subject} was not accepted",
                where=migration.spec.relation,
                state_left="nothing was changed",
                next_step="`migration-assets accept` lists what was",
            )


def accepted(migration: Migration) -> list[Acceptance]:
    """What is accepted now, the oldest first."""
    with migration.databases.session("base", "accept") as base:
        require_ledger(base)
        return read_acceptances(base, migration.spec.relation)


def _offered(findings: "list[Finding] | tuple[Finding, ...]") -> dict[tuple[str, str], Finding]:
    return {(finding.code, finding.subject): finding for finding in findings if finding.acceptable}
