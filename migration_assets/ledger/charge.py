"""Which side decides what is true: the gates of everything that makes sense under one of them alone.

While the base is in charge the legacy's rows are the older ones. Nothing may bring them into the base then: whoever
could asks here before it touches anything, and again, with a fence, in the transaction that would put them in place.
"""

from datetime import datetime

from migration_assets.domain.cutover_state import BaseInChargeError
from migration_assets.domain.freshness import instant_text
from migration_assets.ledger.cutover_facts import CutoverFacts, read_cutover_facts
from migration_assets.ledger.session_locks import holder_pids
from migration_assets.ledger.stream import StreamLock, read_stream
from migration_assets.postgres.sessions import Connected


def base_in_charge_since(base: Connected, relation: str) -> datetime | None:
    """Since when writes belong to the base; None while they belong to the legacy, and where no cutover ever was."""
    facts = read_cutover_facts(base, relation)
    return facts.since if facts.in_charge == "base" else None


def is_base_in_charge(base: Connected, relation: str) -> bool:
    """Whether writes belong to the base."""
    return base_in_charge_since(base, relation) is not None


def is_decommissioned(base: Connected, relation: str) -> bool:
    """Whether the legacy is out of the game: nobody goes back to it, and it need not answer any more."""
    return read_cutover_facts(base, relation).decommissioned is not None


def is_abandoned(base: Connected, relation: str) -> bool:
    """Whether the legacy is in charge and nobody follows it: what it holds by now is not known here."""
    return read_stream(base, relation) is None and not is_base_in_charge(base, relation)


def require_legacy_in_charge(base: Connected, relation: str, what: str) -> None:
    """Refuse what rests on the legacy's being the truth.

    Args:
        base: Any session on the base.
        relation: The table's key in the ledger.
        what: What is not done then, and why, after a colon: `nothing is copied from the legacy, …`.

    Raises:
        BaseInChargeError: The base is in charge; nothing was touched.
    """
    facts = read_cutover_facts(base, relation)
    if facts.in_charge == "base":
        raise refusal(facts, relation, what)


def keep_legacy_in_charge(base: Connected, relation: str) -> None:
    """Until the caller's transaction ends the legacy stays in charge: no cutover can begin, and none is under way.

    The last look of a step that puts the legacy's rows in place; the first one may be hours old.

    Raises:
        BaseInChargeError: The base is in charge, or is about to be: roll the transaction back.
    """
    require_legacy_in_charge(base, relation, "what was read from the legacy is not put in place")
    # Whoever cuts over notes it there before anything else, and again at every step.
    base.execute("LOCK TABLE migration.cutovers IN SHARE MODE")
    # Sessions are listed as they were at the transaction's first look at them.
    base.execute("SELECT pg_stat_clear_snapshot()")
    if holder_pids(base, StreamLock.CUTOVER.named(relation)):
        raise BaseInChargeError(
            "a cutover or rollback is under way: what was read from the legacy is not put in place",
            where=relation,
            state_left="it was rolled back; the base is as before",
            next_step="wait for its end; run this again if the legacy is in charge then",
        )
    # One may have ended, or begun, between the look and the lock.
    require_legacy_in_charge(base, relation, "what was read from the legacy is not put in place")


def refusal(facts: CutoverFacts, relation: str, what: str) -> BaseInChargeError:
    """The error of whoever met a base in charge; `what` as in `require_legacy_in_charge`."""
    since = f" since {instant_text(facts.since)}" if facts.since else ""
    return BaseInChargeError(
        f"the base is in charge{since} (cutover {facts.cutover}): {what}",
        where=relation,
        state_left="nothing was touched",
        next_step="nothing: the legacy was decommissioned"
        if facts.decommissioned
        else "nothing where that is meant to be. `migration-assets repair-legacy QUARTER WEEK` mends the legacy after"
        " the base; `migration-assets rollback` shows the way back to the legacy",
    )
