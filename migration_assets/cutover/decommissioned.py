"""What a cutover and a rollback ask first: whether the legacy is one that they may touch at all."""

from migration_assets.cutover.reverse import let_reverse_run, reverse_names
from migration_assets.cutover.work import forward_names
from migration_assets.domain.cutover_state import CutoverError, CutoverKind
from migration_assets.ledger.decommissions import call_off, read_decommission
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.sessions import Connected


def require_not_decommissioned(base: Connected, relation: str) -> None:
    """Asked before the legacy is, which may be gone altogether.

    Raises:
        CutoverError: The legacy was decommissioned, or that is under way and cannot be undone any more.
    """
    ensure_ledger(base)
    record = read_decommission(base, relation)
    if record is not None and record.state.final:
        raise CutoverError(
            f"the legacy was decommissioned, approved by {record.approved_by}: there is no way back",
            where=relation,
            state_left="the base is in charge; nothing was changed",
            next_step="nothing; the legacy's data is where it was, and a DBA can open it for reading:"
            " `migration-assets decommission` prints the statements",
        )


def give_way(base: Connected, legacy: Connected, relation: str, kind: CutoverKind) -> None:
    """Under the cutover's lock: a decommissioning that died before it closed anything is called off by a rollback.

    Raises:
        CutoverError: It has closed the legacy.
    """
    require_not_decommissioned(base, relation)
    if kind is CutoverKind.ROLLBACK and read_decommission(base, relation) is not None:
        # The stream first: a row that is left is seen by whoever comes next.
        let_reverse_run(legacy, reverse_names(forward_names(base, relation)))
        call_off(base, relation)
