"""One look at the change stream: what was seen, and what could not be seen. No judgement: that is `stream_watch`'s."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from migration_assets.domain.cutover_sample import CutoverSample


class ProblemCode(StrEnum):
    """Everything that can be wrong with a stream; at most one alert of each is open at a time."""

    BASE_UNREACHABLE = "base_unreachable"
    LEGACY_UNREACHABLE = "legacy_unreachable"
    SUBSCRIPTION_MISSING = "subscription_missing"
    SUBSCRIPTION_DISABLED = "subscription_disabled"
    SUBSCRIPTION_ALTERED = "subscription_altered"
    STREAM_ALTERED = "stream_altered"
    WORKER_DOWN = "worker_down"
    WORKER_LOOPING = "worker_looping"
    APPLY_ERRORS = "apply_errors"
    CONFLICTS = "conflicts"
    SLOT_MISSING = "slot_missing"
    SLOT_LOST = "slot_lost"
    SLOT_AT_RISK = "slot_at_risk"
    LAG = "lag"
    HEARTBEAT_FAILED = "heartbeat_failed"
    RETAINED_WAL = "retained_wal"
    WAL_ROOM = "wal_room"
    STREAM_STANDING = "stream_standing"
    PUBLICATION_MISSING = "publication_missing"
    PUBLICATION_ALTERED = "publication_altered"
    IDENTITY_ALTERED = "identity_altered"
    GUARD_MISSING = "guard_missing"
    MARKER_KEY_MISSING = "marker_key_missing"
    COLUMNS_DIFFER = "columns_differ"
    RIGHTS_MISSING = "rights_missing"
    LEAF_MISSING = "leaf_missing"
    UPDATES_REFUSED = "updates_refused"
    FOREIGN_SLOT_STANDS = "foreign_slot_stands"
    RUNWAY = "runway"
    ROWS_OUTSIDE = "rows_outside"
    WRITES_HELD = "writes_held"
    CUTOVER_UNFINISHED = "cutover_unfinished"
    LEGACY_WRITABLE = "legacy_writable"
    BASE_UNGUARDED = "base_unguarded"
    BASE_LEAF_LOST = "base_leaf_lost"
    REVERSE_DOWN = "reverse_down"
    REVERSE_SLOT_LOST = "reverse_slot_lost"
    REVERSE_RETAINED_WAL = "reverse_retained_wal"
    REVERSE_APPLY_ERRORS = "reverse_apply_errors"
    SERVER_CHANGED = "server_changed"


RECOVER = "run `migration-assets stream recover --by NAME`: a new slot, and every week trued up against it"
DRIFTS = frozenset({
    ProblemCode.SUBSCRIPTION_ALTERED,
    ProblemCode.PUBLICATION_MISSING,
    ProblemCode.PUBLICATION_ALTERED,
    ProblemCode.IDENTITY_ALTERED,
    ProblemCode.GUARD_MISSING,
    ProblemCode.MARKER_KEY_MISSING,
    ProblemCode.COLUMNS_DIFFER,
    ProblemCode.RIGHTS_MISSING,
    ProblemCode.LEAF_MISSING,
    ProblemCode.UPDATES_REFUSED,
})  # fmt: skip


@dataclass(frozen=True)
class Drift:
    """Something that the stream rests on is not as it was built."""

    code: ProblemCode
    what: str


@dataclass(frozen=True)
class StreamSample:
    """One observation; None is "not known", most often because a side was away.

    Attributes:
        relation: The table's key in the ledger.
        taken_at: By the watcher's clock, which every sample and alert keeps to; aware.
        base_error: Why the base could not be asked; None where it was.
        legacy_error: The same of the legacy.
        status: As the ledger has it; None where there is no stream, or no base to ask.
        reason: Why it has that status.
        status_seconds: How long it has had it, by the base's clock.
        worked_on_by: The session that holds the stream alone at this moment: what looks odd may be its doing.
        subscription_exists: In this database of the base.
        subscription_enabled: As `pg_subscription` has it.
        worker_pids: Every apply worker that was seen during the look: none, one, or several where it loops.
        worker_waits_for: Whose locks the apply worker waits for at this moment: pid, role and application.
        apply_errors: `apply_error_count`; it does not move while the slot is lost.
        conflicts: The counters of PostgreSQL 18 by name; empty on older ones.
        worker_message: The apply worker's newest error, without any value; None where the log may not be read.
        stricter: What the base refuses and the legacy does not, where that could be compared.
        slot_exists: On the legacy.
        slot_active: A walsender reads it.
        wal_status: `reserved`, `extended`, `unreserved` or `lost`.
        safe_wal_bytes: What may still be written before the slot is lost; None without `max_slot_wal_keep_size`.
        retained_wal_bytes: WAL that the legacy keeps for the slot (`restart_lsn`).
        unconfirmed_bytes: WAL that the base has not confirmed.
        lag_seconds: Travel time of this look's heartbeat; where that did not arrive in time, the age by the legacy's
            clock of the oldest marker that is not on the base. None where none was sent.
        heartbeat_arrived: Whether this look's did in time; None where none was sent.
        heartbeat_error: Why none could be sent.
        legacy_active_sessions: Other people's sessions at work there; None where we may not see them.
        drifts: What was altered; None where that could not be examined, or changed while it was.
        foreign_slots: Where each logical slot of others stands on the legacy, while a publication of others carries
            our tables; None where that was not looked at.
        proofs_outlived: What somebody altered of the stream by hand, where weeks were proven before that and not since.
        runway_days: Until the first instant that has no leaf, or is not under CDC; None also where the stream works on
            the past and has not reached the present.
        runway_ends: Which week that is, and what it lacks.
        server_changes: Why a server is not the one that the stream was built on, or no longer holds what it held; empty
            where both are as they were.
        outside: Rows of the legacy that no open week can take, in words; None where that is not known, or before the
            gate of a cutover was ever passed.
        cutover: Who is in charge, whose writes are refused, the reverse stream; None before anybody looked at that.
    """

    relation: str
    taken_at: datetime
    base_error: str | None = None
    legacy_error: str | None = None
    status: str | None = None
    reason: str | None = None
    status_seconds: float | None = None
    worked_on_by: str | None = None
    subscription_exists: bool | None = None
    subscription_enabled: bool | None = None
    worker_pids: tuple[int, ...] | None = None
    worker_waits_for: str | None = None
    apply_errors: int | None = None
    conflicts: Mapping[str, int] | None = None
    worker_message: str | None = None
    stricter: tuple[str, ...] = ()
    slot_exists: bool | None = None
    slot_active: bool | None = None
    wal_status: str | None = None
    safe_wal_bytes: int | None = None
    retained_wal_bytes: int | None = None
    unconfirmed_bytes: int | None = None
    lag_seconds: float | None = None
    heartbeat_arrived: bool | None = None
    heartbeat_error: str | None = None
    legacy_active_sessions: int | None = None
    drifts: tuple[Drift, ...] | None = None
    foreign_slots: Mapping[str, str | None] | None = None
    proofs_outlived: str | None = None
    runway_days: float | None = None
    runway_ends: str | None = None
    outside: tuple[str, ...] | None = None
    server_changes: tuple[str, ...] | None = None
    cutover: CutoverSample | None = None

    @property
    def base_in_charge(self) -> bool:
        """Whether writes belong to the base, so that nothing flows from the legacy."""
        return self.cutover is not None and self.cutover.base_in_charge

    @property
    def seconds_behind(self) -> float | None:
        """The lag of the stream that is to run now: the change stream's, or the reverse stream's."""
        if self.cutover is None or not self.base_in_charge:
            return self.lag_seconds
        return self.cutover.reverse.lag_seconds if self.cutover.reverse else None

    def to_json(self) -> dict[str, Any]:
        """For the ledger; `from_json` makes it again."""
        cutover = self.cutover.to_json() if self.cutover else None
        return {**asdict(self), "taken_at": self.taken_at.isoformat(), "cutover": cutover}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StreamSample":
        """As it was; what another version of this program wrote besides is left out."""
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in stored.items() if name in names}
        values["taken_at"] = datetime.fromisoformat(values["taken_at"])
        if values.get("worker_pids") is not None:
            values["worker_pids"] = tuple(values["worker_pids"])
        if values.get("server_changes") is not None:
            values["server_changes"] = tuple(values["server_changes"])
        values["stricter"] = tuple(values.get("stricter") or ())
        if values.get("outside") is not None:
            values["outside"] = tuple(values["outside"])
        if values.get("drifts") is not None:
            values["drifts"] = tuple(Drift(ProblemCode(drift["code"]), drift["what"]) for drift in values["drifts"])
        if values.get("cutover") is not None:
            values["cutover"] = CutoverSample.from_json(values["cutover"])
        return cls(**values)
