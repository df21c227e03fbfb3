"""Whether the stream may be worked on now: no cutover has it, the base is not in charge, and it runs.

A pause that a dead step left behind is ended on the way.
"""

import logging

from migration_assets.domain.errors import StreamError
from migration_assets.domain.samples import UnderWay
from migration_assets.domain.states import CutoverKind
from migration_assets.ledger.charge import read_cutover_facts, refusal
from migration_assets.ledger.stream import StreamRecord, StreamStatus, nobody_at_work, read_stream, set_status
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.servers import require_same_servers
from migration_assets.stream.subscription import apply_worker, enable, require_enabled

_UNTOUCHED = "nothing was touched"


def require_not_barred(base: Connected, relation: str, *, mending: bool = False) -> None:
    """Refuse work on the stream while a cutover has it; asked before any lock is waited for. A cutover itself passes.

    Args:
        base: Any session on the base.
        relation: The table's key in the ledger.
        mending: The caller rebuilds the stream, which repairs the damage of a replaced server.

    Raises:
        BaseInChargeError: The base is in charge.
        ServerChangedError: A server is not the one that the stream was built on, or went back in time.
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
            "the change stream is barred by a cutover that the ledger does not list as unfinished",
            where=relation,
            state_left=_UNTOUCHED,
            next_step="run `migration-assets stream status`; report this: it is a bug in this program",
        )
    if not mending:
        require_same_servers(base, relation)


def _rebuilding(left: UnderWay) -> bool:
    """Whether it is a rollback past its point of no return, which lets the change stream begin anew itself."""
    return left.kind == CutoverKind.ROLLBACK and left.opened


_RESUME = "run `migration-assets stream resume`"
log = logging.getLogger(__name__)


def require_stream(base: Connected, relation: str) -> StreamRecord:
    """Return the stream's record, whatever its status.

    Raises:
        StreamError: No stream was ever begun.
    """
    record = read_stream(base, relation)
    if record is None:
        raise StreamError(
            "there is no change stream yet",
            where=relation,
            state_left="nothing was touched",
            next_step="materialize change_stream for the quarter",
        )
    return record


def require_running(base: Connected, relation: str) -> StreamRecord:
    """The stream, enabled. The caller holds the stream's lock, so that a pause found here was left by a dead step.

    So a pause found here belongs to a dead step, and is simply ended: the step's transaction either put its rows in
    place or never happened, and the stream rests at exactly the marker that its rows are at.

    Raises:
        StreamError: There is none, a person holds it, a join or activation was never finished, a cutover has it, the
            base is in charge, or the subscription was disabled or dropped by hand.
    """
    record = require_stream(base, relation)
    require_not_barred(base, relation)
    if record.status is StreamStatus.PAUSED:
        log.warning("the stream was left paused by a step that died (%s); it goes on now", record.reason)
        go_on(base, record)
        record = require_stream(base, relation)
    unfinished = {
        StreamStatus.HELD: (f"a person holds the stream ({record.reason})", _RESUME),
        StreamStatus.ACTIVATING: ("its activation was never finished", "materialize change_stream again"),
        StreamStatus.JOINING: (f"a join was never finished ({record.reason})", (f"{_RESUME}, or materialize"
                               " change_stream again")),
    }  # fmt: skip
    if record.status in unfinished:
        what, next_step = unfinished[record.status]
        raise StreamError(
            what, where=relation, state_left="the base stands still; the slot keeps what it misses", next_step=next_step
        )
    require_enabled(apply_worker(base, record.subscription), record.subscription)
    return record


def go_on(base: Connected, record: StreamRecord) -> None:
    """Enable the subscription and record it, in one transaction."""
    if apply_worker(base, record.subscription) is None:
        require_enabled(None, record.subscription)
    with nobody_at_work(base, record.relation):
        set_status(base, record.relation, StreamStatus.LIVE)
        enable(base, record.subscription)
