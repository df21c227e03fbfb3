"""A cutover, rehearsal or rollback in Dagster: live states in the run's log, its record as metadata, no repetition."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread

import dagster as dg

from migration_assets.defs.failures import readable_failures
from migration_assets.defs.metadata import Metadata
from migration_assets.defs.proofs import table
from migration_assets.domain.cutover_state import CutoverKind, CutoverState
from migration_assets.domain.cutover_timeline import steps_of
from migration_assets.readiness.step import CutoverRecord, OnState, release_writes
from migration_assets.runtime import Migration

# Launched by the daemon's run retries or an op's retry policy, whatever a deployment sets.
_RETRY = "dagster/retry_number"
_LAST_WORDS_SECONDS = 10.0


@contextmanager
def told_states(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Generator[OnState]:
    """A callback that logs every state. Another thread writes: Dagster's storage must not lengthen a hold."""
    waiting: SimpleQueue[str | None] = SimpleQueue()

    def write() -> None:
        while (text := waiting.get()) is not None:
            with suppress(Exception):
                context.log.info(text)

    writer = Thread(target=write, name="cutover-log", daemon=True)
    writer.start()

    def on_state(kind: CutoverKind, state: CutoverState) -> None:
        waiting.put(f"{kind}: {state}")

    try:
        yield on_state
    finally:
        waiting.put(None)
        writer.join(_LAST_WORDS_SECONDS)


def refuse_retries(context: dg.OpExecutionContext | dg.AssetExecutionContext, migration: Migration, what: str) -> None:
    """A machine's second try begins nothing; it settles what the first left, so that writes are accepted again.

    Raises:
        dg.Failure: This is one.
    """
    if not context.retry_number and _RETRY not in context.run.tags:
        return
    with readable_failures():
        settled = release_writes(migration, context.run.run_id)
    raise dg.Failure(
        description=f"This run is an automatic retry, and a {what} is never repeated by a machine.\nState left:"
        f" {settled}.\nNext: read why the first run failed; then launch it again yourself.",
        allow_retries=False,
    )


def result_of(record: CutoverRecord) -> str:
    """What happened and what comes next, in two sentences."""
    held = f"; writes were held for {record.downtime_ms:,.0f} ms" if record.downtime_ms is not None else ""
    if record.rehearse:
        return f"rehearsed by {record.approved_by}{held}. The legacy goes on as before; the real one takes as long"
    if record.kind is CutoverKind.ROLLBACK:
        return f"rolled back by {record.approved_by}{held}. The legacy is in charge, the base follows it again"
    return (
        f"cut over by {record.approved_by}{held}. The base is in charge, the legacy follows it: the job rollback goes"
        " back with nothing lost, until the legacy is decommissioned"
    )


def record_metadata(record: CutoverRecord) -> Metadata:
    """Everything that the ledger has of it; the downtime is plotted."""
    metadata: Metadata = {
        "result": dg.MetadataValue.text(result_of(record)),
        "approved_by": dg.MetadataValue.text(record.approved_by),
        "cutover_id": dg.MetadataValue.int(record.id),
        "timeline": table(
            ("state", "started", "finished", "seconds"),
            (
                {
                    "state": step.state.value,
                    "started": f"{step.started:%Y-%m-%d %H:%M:%S.%f}"[:-3],
                    "finished": f"{step.finished:%H:%M:%S.%f}"[:-3] if step.finished else "",
                    "seconds": round(step.seconds or 0.0, 3),
                }
                for step in steps_of(record.timeline)
            ),
        ),
    }
    if record.downtime_ms is not None:
        metadata["downtime_ms"] = dg.MetadataValue.float(round(record.downtime_ms, 3))
    for name in ("held_at", "opened_at", "released_at"):
        if (at := getattr(record, name)) is not None:
            metadata[name] = dg.MetadataValue.timestamp(at)
    if record.compared_weeks is not None:
        metadata["compared_weeks"] = dg.MetadataValue.int(record.compared_weeks)
        metadata["compared_rows"] = dg.MetadataValue.int(record.compared_rows or 0)
    if record.error:
        metadata["error"] = dg.MetadataValue.text(record.error)
    return metadata
