"""The change stream in the ledger: the names of its parts, its status, and the locks that order work on it."""

import hashlib
import secrets
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from psycopg import errors, sql
from psycopg.rows import dict_row

from migration_assets.domain.errors import StreamError
from migration_assets.ledger.session_locks import session_lock
from migration_assets.postgres.activity import APPLICATION
from migration_assets.postgres.sessions import Connected, require_row, set_limits


class StreamLock(StrEnum):
    """The locks of a migration: work on the stream, the choice of weeks under CDC, a cutover or rollback."""

    STREAM = "stream"
    START = "start"
    CUTOVER = "cutover"

    def named(self, key: str) -> str:
        """The lock's name in the table of locks; `key` is the table on the base, the stream's slot on the legacy."""
        return f"{self.value} {key}"


class StreamStatus(StrEnum):
    """What the ledger says of the stream. Whether it really runs is seen by a look at both sides.

    `activating` and `joining` mark a step that was begun and is not finished; if it died, a rebuild repairs the stream.
    `paused` is the pause of a step: the stream rests exactly at a marker, and if that step died, the next one enables
    the stream. `held` is a person's pause, which only a person ends.
    """

    ACTIVATING = "activating"
    LIVE = "live"
    PAUSED = "paused"
    HELD = "held"
    JOINING = "joining"


@dataclass(frozen=True)
class StreamNames:
    """The names of the stream's three parts. Slots belong to the whole server, so each name identifies its owner."""

    publication: str
    slot: str
    subscription: str


@dataclass(frozen=True)
class StreamRecord:
    """One table's stream. `exact_since_*` is the position from which on all its slices equal the legacy."""

    relation: str
    publication: str
    slot: str
    subscription: str
    status: StreamStatus
    reason: str | None
    row_filter: str | None
    former_identity: str | None
    exact_since_marker: int | None
    exact_since_lsn: str | None
    exact_since: datetime | None
    status_since: datetime
    created_at: datetime


def names_of(stream: StreamRecord) -> StreamNames:
    """The names of a stream's parts in the ledger."""
    return StreamNames(stream.publication, stream.slot, stream.subscription)


def stream_names(base: Connected, relation: str) -> StreamNames:
    """Names that no other migration has, derived from this table, this database and this server."""
    row = base.execute(
        "SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()"
    ).fetchone()
    digest = hashlib.sha256(f"{require_row(row, 'the base')[0]}/{relation}".encode()).hexdigest()[:12]
    name = f"migration_assets_{digest}"
    return StreamNames(name, name, name)


def fresh_names() -> StreamNames:
    """Names that no stream ever had."""
    name = f"migration_assets_{secrets.token_hex(6)}"
    return StreamNames(name, name, name)


def rename_stream(base: Connected, relation: str, names: StreamNames) -> None:
    """Rename the stream's parts in the ledger; no part with an old name exists any more."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        base.execute(
            "UPDATE migration.streams SET publication = %s, slot = %s, subscription = %s WHERE relation = %s",
            [names.publication, names.slot, names.subscription, relation],
        )


def read_stream(base: Connected, relation: str) -> StreamRecord | None:
    """The stream of the table, or None if none was ever begun."""
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM migration.streams WHERE relation = %s", [relation]).fetchone()
    return None if row is None else _record(row)


def _record(row: dict[str, Any]) -> StreamRecord:
    fields: dict[str, Any] = {**row, "status": StreamStatus(row["status"])}
    return StreamRecord(**fields)


def begin_stream(base: Connected, relation: str, names: StreamNames, reason: str) -> None:
    """Note the intent: status `activating`, whatever the stream was before."""
    with nobody_at_work(base, relation):
        base.execute(
            "INSERT INTO migration.streams (relation, publication, slot, subscription, status, reason)"
            " VALUES (%(relation)s, %(publication)s, %(slot)s, %(subscription)s, 'activating', %(reason)s)"
            " ON CONFLICT (relation) DO UPDATE SET status = 'activating', reason = %(reason)s,"
            " status_since = clock_timestamp()",
            {"relation": relation, "reason": reason, "publication": names.publication, "slot": names.slot,
             "subscription": names.subscription},
        )  # fmt: skip


def newest_marker(base: Connected) -> int:
    """The highest id of all markers in the base; 0 if there are none."""
    row = base.execute("SELECT coalesce(max(id), 0) FROM migration.markers").fetchone()
    return int(require_row(row, "the newest marker")[0])


@contextmanager
def nobody_at_work(base: Connected, relation: str) -> Generator[None]:
    """A transaction that may change the status that `keep_at_rest` relies on.

    Raises:
        StreamError: A step that has lost its lock on the stream is still at work; the error names it.
    """
    try:
        with base.transaction():
            set_limits(base, lock=5_000)
            yield
    except errors.LockNotAvailable:
        found = base.execute(
            sql.SQL(
                "SELECT DISTINCT a.pid, {application} FROM pg_locks k JOIN pg_stat_activity a USING (pid)"
                " WHERE k.relation = 'migration.streams'::regclass AND k.mode = 'RowShareLock' AND k.granted"
                " AND a.pid <> pg_backend_pid()"
            ).format(application=APPLICATION)
        ).fetchall()
        who = ", ".join(f"backend {pid} ({application})" for pid, application in found) or "another session"
        raise StreamError(
            f"a step is still at work on the resting stream: {who}",
            where=relation,
            state_left="nothing was changed by this run",
            next_step="let it end, or end it (SELECT pg_terminate_backend(pid)), then run this again",
        ) from None


def set_status(base: Connected, relation: str, status: StreamStatus, reason: str | None = None) -> None:
    """Note a new status durably, also on a base that commits asynchronously by default."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        base.execute(
            "UPDATE migration.streams SET status = %s, reason = %s, status_since = clock_timestamp()"
            " WHERE relation = %s",
            [status, reason, relation],
        )


def keep_at_rest(base: Connected, stream: StreamRecord) -> None:
    """Keep the stream at rest until the caller's transaction ends: no other step lets it go on.

    Every transaction that makes rows true must ask: the stream's lock is another session's and may be lost unnoticed,
    and the next run takes the step for dead.

    Args:
        base: In the transaction that changes rows.
        stream: The stream, read after the step noted its status.

    Raises:
        StreamError: The stream was let go on, so the base is no longer at the position of the cut.
    """
    row = base.execute(
        "SELECT 1 FROM migration.streams WHERE relation = %s AND status = %s AND status_since = %s FOR SHARE",
        [stream.relation, stream.status, stream.status_since],
    ).fetchone()
    if row is None:
        raise StreamError(
            "the session that kept the stream paused was lost, and another step let the stream go on",
            where=stream.relation,
            state_left="this step's rows are rolled back; the base is as the stream left it",
            next_step="run this again",
        )


def stream_lock(
    base: Connected, relation: str, *, shared: bool = False, lock: StreamLock = StreamLock.STREAM
) -> AbstractContextManager[None]:
    """Hold a lock of the stream: shared while a cut is taken, exclusive while it is paused, activated or rebuilt.

    A step that also wants slices takes their locks first; waits as long as the session's `lock_timeout`. Before both
    comes START, which a step holds from its first look on when it decides which weeks are under CDC.

    Raises:
        StreamError: Another session holds the lock; the error names it.
    """

    def refuse(who: str) -> StreamError:
        return StreamError(
            f"the change stream is being worked on by {who}",
            where=relation,
            state_left="nothing was changed by this run",
            next_step="wait for the other run, or end it, then run this again",
        )

    return session_lock(base, lock.named(relation), refuse, shared=shared)
