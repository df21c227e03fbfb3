"""Refuses work on the change stream, before anything is touched, while a cutover has it or the base is in charge."""

from migration_assets.domain.cutover_sample import UnderWay
from migration_assets.domain.cutover_state import CutoverKind
from migration_assets.domain.errors import StreamError
from migration_assets.ledger.charge import refusal
from migration_assets.ledger.cutover_facts import read_cutover_facts
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.servers import require_same_servers

_UNTOUCHED = "nothing was touched"


def require_not_barred(base: Connected, relation: str, *, mending: bool = False) -> None:
    """To be asked before any lock is waited for. A cutover asks this of itself, too, and passes.

    Args:
        base: Any session on the base.
        relation: The table's key in the ledger.
        mending: The caller builds the stream anew, which mends what another server in the place of one has done.

    Raises:
        BaseInChargeError: The base is in charge.
        ServerChangedError: A server is another one than the stream was built on, or went back.
        StreamError: A cutover or rollback is not finished; says what to do first.
    """
    facts = read_cutover_facts(base, relation)
    left = facts.under_way
    if left is not None and left.alive and not _rebuilding(left):
        raise StreamError(
            f"a {left.kind} is under way ({left.name}, at {left.state}, backend {left.pid} on the base)",
            where=relation,
            state_left=_UNTOUCHED,
            next_step="wait for it, then run this again",
        )
    if left is not None and facts.stream_barred and left.pid is None:
        raise StreamError(
            f"{left.name} was left at {left.state}: its process died",
            where=relation,
            state_left=_UNTOUCHED,
            next_step="run `migration-assets release-writes`, which finishes or undoes it, then this again",
        )
    if facts.in_charge == "base":
        raise refusal(facts, relation, "nothing flows from the legacy")
    if facts.stream_barred and left is None:
        raise StreamError(
            "the change stream is barred by a cutover that the ledger does not have as unfinished",
            where=relation,
            state_left=_UNTOUCHED,
            next_step="run `migration-assets stream status`; report this: it is a fault of this program",
        )
    if not mending:
        require_same_servers(base, relation)


def _rebuilding(left: UnderWay) -> bool:
    """A rollback that is past its point of no return lets the change stream begin anew itself."""
    return left.kind == CutoverKind.ROLLBACK and left.opened
