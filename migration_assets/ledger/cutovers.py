"""Cutovers and rollbacks in the ledger; each step is noted durably before it is done."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import dict_row

from migration_assets.domain.confirmation import GivenCode
from migration_assets.domain.errors import StreamError
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.states import CutoverKind, CutoverState, require_cutover_transition
from migration_assets.ledger.chain import append_row
from migration_assets.ledger.session_locks import session_lock
from migration_assets.ledger.stream import StreamLock
from migration_assets.postgres.sessions import Connected, require_row


@dataclass(frozen=True)
class CutoverRecord:
    """One cutover or rollback; times are by the base's clock; `ledger.sql` explains the columns."""

    id: int
    relation: str
    kind: CutoverKind
    rehearse: bool
    approved_by: str
    state: CutoverState
    timeline: Mapping[str, Mapping[str, str]]
    stream_barred: bool
    held_at: datetime | None
    opened_at: datetime | None
    released_at: datetime | None
    downtime_ms: float | None
    compared_weeks: int | None
    compared_rows: int | None
    error: str | None
    outcome: str
    run_id: str | None
    started_at: datetime
    finished_at: datetime | None
    done_by: Mapping[str, object] | None = None
    # Not of the ledger: the code that a rehearsal gives to the person who ran it.
    confirmation: GivenCode | None = field(default=None, compare=False)


def read_cutovers(base: Connected, relation: str) -> list[CutoverRecord]:
    """All cutovers and rollbacks of the table, oldest first."""
    return _read(base, "WHERE relation = %s ORDER BY id", relation)


def unfinished_cutover(base: Connected, relation: str) -> CutoverRecord | None:
    """The unfinished cutover or rollback: under way, or left by a process that died; None if there is none."""
    found = _read(base, "WHERE relation = %s AND outcome = 'running'", relation)
    return found[0] if found else None


def read_cutover(base: Connected, cutover: int) -> CutoverRecord:
    """One cutover as it is now."""
    return _read(base, "WHERE id = %s", cutover)[0]


def _read(base: Connected, where: LiteralString, value: object) -> list[CutoverRecord]:
    with base.cursor(row_factory=dict_row) as cursor:
        cursor.execute(sql.SQL("SELECT * FROM migration.cutovers {}").format(sql.SQL(where)), [value])
        return [_record(row) for row in cursor]


def _record(row: dict[str, Any]) -> CutoverRecord:
    fields: dict[str, Any] = {**row, "kind": CutoverKind(row["kind"]), "state": CutoverState(row["state"])}
    return CutoverRecord(**fields)


def cutover_lock(base: Connected, relation: str) -> AbstractContextManager[None]:
    """Hold the cutover's lock: its holder may take an unfinished cutover for dead.

    Raises:
        StreamError: Another session holds it; the error names it.
    """

    def refuse(who: str) -> StreamError:
        return StreamError(
            f"the cutover is being worked on by {who}",
            where=relation,
            state_left="nothing was changed by this run",
            next_step="wait for it (if it still holds writes 5 s after its timeout, the next run ends it); or end it"
            " (SELECT pg_terminate_backend(pid) on the base), then run this again",
        )

    return session_lock(base, StreamLock.CUTOVER.named(relation), refuse)


def begin(
    base: Connected,
    relation: str,
    kind: CutoverKind,
    *,
    rehearse: bool,
    approved_by: str,
    run_id: str | None,
    timeout_seconds: float,
    on_begin: Callable[[Connected, int], None] | None = None,
) -> int:
    """Make a new record in state `begun` and return its id. Its timeout is kept: a run that is later does not answer.

    The timeout is kept with it, so that other processes can tell when this one hangs. `on_begin` is called in the same
    transaction, see `CutoverPlan`.
    """
    with durably(base):
        row = base.execute(
            "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, run_id, timeline) VALUES (%s, %s,"
            " %s, %s, %s, jsonb_build_object('begun', jsonb_build_object('started', clock_timestamp(),"
            " 'timeout_seconds', %s::text))) RETURNING id",
            [relation, kind, rehearse, approved_by, run_id, timeout_seconds],
        ).fetchone()
        cutover = int(require_row(row, "a new cutover")[0])
        if on_begin is not None:
            on_begin(base, cutover)
    return cutover


def enter(base: Connected, cutover: int, state: CutoverState, *, error: str | None = None) -> None:
    """Note that a state begins, and that the one before is finished.

    Raises:
        CutoverError: The transition is not allowed.
    """
    with durably(base):
        row = base.execute(
            "SELECT state, opened_at IS NOT NULL, relation FROM migration.cutovers WHERE id = %s FOR UPDATE", [cutover]
        ).fetchone()
        before, opened, relation = require_row(row, "the cutover")
        require_cutover_transition(CutoverState(before), state, opened=bool(opened), where=str(relation))
        base.execute(
            "UPDATE migration.cutovers SET state = %(state)s, error = coalesce(%(error)s, error),"
            " timeline = timeline || CASE WHEN state = %(state)s THEN '{}' ELSE jsonb_build_object("
            "  state, coalesce(timeline -> state, '{}') || jsonb_build_object('finished', clock_timestamp())) END"
            " || jsonb_build_object(%(state)s::text, jsonb_build_object('started', clock_timestamp()))"
            " WHERE id = %(id)s",
            {"state": state, "error": error, "id": cutover},
        )


def finish(base: Connected, cutover: int, outcome: str) -> None:
    """Note how it ended, once, with a record in the chain of evidence. Never called while writes are held."""
    with durably(base):
        row = base.execute(
            "UPDATE migration.cutovers SET outcome = %s, finished_at = clock_timestamp(),"
            " timeline = timeline || jsonb_build_object(state, coalesce(timeline -> state, '{}')"
            "  || jsonb_build_object('finished', clock_timestamp()))"
            " WHERE id = %s AND outcome = 'running' RETURNING relation",
            [outcome, cutover],
        ).fetchone()
        if row is not None:
            append_row(base, str(row[0]), ChainKind.CUTOVER, cutover)


def note_held(base: Connected, cutover: int) -> None:
    """Note that writes are held from about now on."""
    base.execute("UPDATE migration.cutovers SET held_at = clock_timestamp() WHERE id = %s", [cutover])


def note_forward_start(base: Connected, cutover: int, lsn: str) -> None:
    """Note the position from which the forward stream is to go on after the rollback, whose state is `reversed`.

    It need not be on disk, so that no writer waits for it: where it is lost, the stream is rebuilt.
    """
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = off")
        base.execute(
            "UPDATE migration.cutovers SET timeline = jsonb_set(timeline, '{reversed,forward_lsn}', to_jsonb(%s::text))"
            " WHERE id = %s",
            [lsn, cutover],
        )


def read_forward_start(base: Connected, cutover: int) -> str | None:
    """The position that was noted; None where none was, or where it was lost."""
    return read_cutover(base, cutover).timeline.get(CutoverState.REVERSED, {}).get("forward_lsn")


def note_compared(base: Connected, cutover: int, weeks: int, rows: int) -> None:
    """Note how much was compared while writes were held."""
    base.execute(
        "UPDATE migration.cutovers SET compared_weeks = %s, compared_rows = %s WHERE id = %s", [weeks, rows, cutover]
    )


def note_released(base: Connected, cutover: int, downtime_ms: float | None, *, opened: bool) -> None:
    """Note that a side accepts writes again; in the transaction that opens it, where that is one of the base.

    Without `downtime_ms` it is computed from the ledger's own times, since the process that measured it is dead.
    """
    base.execute(
        "UPDATE migration.cutovers SET released_at = coalesce(released_at, clock_timestamp()),"
        " opened_at = CASE WHEN %(opened)s THEN coalesce(opened_at, clock_timestamp()) ELSE opened_at END,"
        " downtime_ms = coalesce(downtime_ms, %(ms)s,"
        "  extract(epoch FROM clock_timestamp() - held_at)::float8 * 1000) WHERE id = %(id)s",
        {"opened": opened, "ms": downtime_ms, "id": cutover},
    )


def bar_stream(base: Connected, cutover: int, *, barred: bool) -> None:
    """Bar the change stream from now on, or free it again; in the caller's transaction."""
    if barred:
        base.execute("UPDATE migration.cutovers SET stream_barred = true WHERE id = %s", [cutover])
    else:
        base.execute(
            "UPDATE migration.cutovers SET stream_barred = false WHERE stream_barred"
            " AND relation = (SELECT relation FROM migration.cutovers WHERE id = %s)",
            [cutover],
        )


@contextmanager
def durably(base: Connected) -> Generator[None]:
    """A transaction whose commit is on disk when it returns, even on a base that commits asynchronously by default."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        yield
