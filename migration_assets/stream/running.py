"""Whether the stream may be worked on now; a pause that a dead step left behind is ended on the way."""

import logging

from migration_assets.domain.errors import StreamError
from migration_assets.ledger.stream import (
    StreamRecord,
    StreamStatus,
    nobody_at_work,
    read_stream,
    set_status,
)
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.barred import require_not_barred
from migration_assets.stream.subscription import apply_worker, enable, require_enabled

_RESUME = "run `migration-assets stream resume`"
log = logging.getLogger(__name__)


def require_stream(base: Connected, relation: str) -> StreamRecord:
    """The stream, whatever its status.

    Raises:
        StreamError: None was ever begun.
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
    """The stream, enabled. The caller holds the stream's lock, so that a step's pause found here belongs to a dead one.

    Such a pause is simply ended: the dead step's transaction either put its rows in place or never happened, and the
    stream rests at exactly the marker that its rows stand at.

    Raises:
        StreamError: There is none, a person holds it, a join or activation was never finished, a cutover has it, the
            base is in charge, or somebody disabled or dropped the subscription behind our back.
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
    """Enable the subscription and note it, in one transaction."""
    if apply_worker(base, record.subscription) is None:
        require_enabled(None, record.subscription)
    with nobody_at_work(base, record.relation):
        set_status(base, record.relation, StreamStatus.LIVE)
        enable(base, record.subscription)
