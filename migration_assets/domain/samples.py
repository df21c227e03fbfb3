"""What one look at the change stream and at cutovers saw, and the thresholds by which it is judged."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.states import SideName

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class UnderWay:
    """A cutover or rollback that is not finished. `pid` is its session on the base; None when its process died.

    `timeout_seconds` is its own timeout: a process that holds writes for clearly longer hangs.
    """

    id: int
    kind: str
    state: str
    pid: int | None
    opened: bool = False
    timeout_seconds: float | None = None

    @property
    def alive(self) -> bool:
        """Whether its process is still at work."""
        return self.pid is not None

    @property
    def name(self) -> str:
        """E.g. `cutover 3`."""
        return f"{self.kind} {self.id}"


@dataclass(frozen=True)
class HeldSample:
    """Writes are refused on the side in charge; `seconds` is for how long, by that side's clock (None: unknown)."""

    side: str
    seconds: float | None
    what: str
    next_step: str


@dataclass(frozen=True)
class ReverseSample:
    """The reverse stream, from the base to the legacy; None means "not known".

    Attributes:
        name: The name of its publication, slot and subscription.
        subscription_exists: Whether the subscription exists on the legacy.
        subscription_enabled: Whether `pg_subscription` on the legacy shows it as enabled.
        worker_runs: Whether an apply worker was seen on the legacy.
        apply_errors: `apply_error_count` on the legacy.
        slot_exists: Whether the slot exists on the base.
        slot_active: Whether a walsender reads the slot.
        wal_status: The slot's `wal_status`.
        retained_wal_bytes: WAL that the base keeps for the slot.
        arrived: Whether this look's marker reached the legacy in time.
        lag_seconds: How long the marker took; if it did not arrive, the age of the oldest marker that is missing.
        marker_error: Why no marker could be sent or looked for.
    """

    name: str
    subscription_exists: bool | None = None
    subscription_enabled: bool | None = None
    worker_runs: bool | None = None
    apply_errors: int | None = None
    slot_exists: bool | None = None
    slot_active: bool | None = None
    wal_status: str | None = None
    retained_wal_bytes: int | None = None
    arrived: bool | None = None
    lag_seconds: float | None = None
    marker_error: str | None = None


@dataclass(frozen=True)
class CutoverSample:
    """What one look observed about cutovers.

    Attributes:
        in_charge: The side in charge, by the ledger; None if the base could not be asked.
        since: Since when it is in charge; None if there never was a cutover.
        cutover: The id of the cutover or rollback that put it in charge.
        approved_by: Who approved that cutover or rollback.
        under_way: An unfinished cutover or rollback.
        stream_barred: Whether only a cutover or rollback may let the change stream go on.
        accepts: Whether the side in charge accepts writes; if the base is unreachable, whether the legacy does.
        held: The hold, if the side in charge refuses writes.
        legacy_accepts: Whether the legacy would accept a write from any role.
        legacy_gaps: What lets such writes through the legacy's hold, in words; empty when the hold is complete.
        unguarded: Tables of a base in charge whose TRUNCATE would not reach the legacy.
        lost_leaves: Weeks without a leaf in a base in charge, each with the statement that brings the leaf back.
        reverse: The reverse stream, while the base is in charge.
        decommissioned: Since when the legacy is closed for good.
        changed: Whether any of this changed during the look, so that the look proves nothing.
        ledger: Whether the base has a ledger that records cutovers.
    """

    in_charge: SideName | None = "legacy"
    since: datetime | None = None
    cutover: int | None = None
    approved_by: str | None = None
    under_way: UnderWay | None = None
    stream_barred: bool = False
    accepts: bool | None = None
    held: HeldSample | None = None
    legacy_accepts: bool | None = None
    legacy_gaps: str = ""
    unguarded: str = ""
    lost_leaves: str = ""
    reverse: ReverseSample | None = None
    decommissioned: datetime | None = None
    changed: bool = False
    ledger: bool = True

    @property
    def base_in_charge(self) -> bool:
        """Whether the base is in charge."""
        return self.in_charge == "base"

    @property
    def text(self) -> str | None:
        """Who is in charge since when, in words; None before any cutover."""
        if self.since is None:
            return None
        return f"the {self.in_charge} is in charge since {self.since:%Y-%m-%d %H:%M:%S %Z} ({self.how})"

    @property
    def how(self) -> str:
        """E.g. `cutover 3`."""
        return f"{'cutover' if self.base_in_charge else 'rollback'} {self.cutover}"

    @property
    def decommission_text(self) -> str | None:
        """When the legacy was decommissioned, in words; None while a rollback is possible."""
        if self.decommissioned is None:
            return None
        return f"the legacy was decommissioned at {self.decommissioned:%Y-%m-%d %H:%M:%S %Z}"

    @property
    def case(self) -> str | None:
        """The situation in words: who is in charge, how the reverse stream runs, what is under way; or None."""
        parts = [self.text] if self.base_in_charge and self.text else []
        if self.decommission_text is not None:
            parts.append(self.decommission_text)
        elif self.base_in_charge:
            parts.append(f"the reverse stream {self._reverse_case()}")
        if self.under_way is not None:
            how = "is under way" if self.under_way.alive else "was left by a process that died"
            parts.append(f"{self.under_way.name} {how}, at {self.under_way.state}")
        return "; ".join(parts) or None

    def _reverse_case(self) -> str:
        reverse = self.reverse
        if reverse is None or reverse.subscription_exists is None:
            return "cannot be seen"
        if not reverse.subscription_exists or not reverse.slot_exists:
            return "is gone"
        if not reverse.subscription_enabled:
            return "is disabled"
        if not reverse.arrived:
            return "brings nothing to the legacy"
        return "runs" if reverse.lag_seconds is None else f"runs, {reverse.lag_seconds:,.2f} s behind"

    @property
    def worth_watching(self) -> bool:
        """Whether cutovers need watching even without a change stream."""
        return self.held is not None or self.base_in_charge or self.under_way is not None

    def to_json(self) -> dict[str, Any]:
        """As JSON values, which `from_json` reads."""
        times = {name: value.isoformat() for name in ("since", "decommissioned") if (value := getattr(self, name))}
        return {**asdict(self), **times}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "CutoverSample":
        """Read a stored sample; fields that only another version of this program knows are ignored."""
        values = _known(cls, stored)
        for name, part in (("under_way", UnderWay), ("held", HeldSample), ("reverse", ReverseSample)):
            if values.get(name) is not None:
                values[name] = part(**_known(part, values[name]))
        for name in ("since", "decommissioned"):
            if values.get(name) is not None:
                values[name] = datetime.fromisoformat(values[name])
        return cls(**values)


def _known(part: type[_Made], stored: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(part)}  # pyright: ignore[reportArgumentType]
    return {name: value for name, value in stored.items() if name in names}


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


ALERTS: dict[ProblemCode, str] = {
    ProblemCode.BASE_UNREACHABLE: "The base does not answer.",
    ProblemCode.LEGACY_UNREACHABLE: "The legacy does not answer.",
    ProblemCode.SUBSCRIPTION_MISSING: "The subscription is gone from the base.",
    ProblemCode.SUBSCRIPTION_DISABLED: "Somebody disabled the subscription, although the stream should run.",
    ProblemCode.SUBSCRIPTION_ALTERED: "An option of the subscription is not the one that it was made with.",
    ProblemCode.STREAM_ALTERED: "Somebody altered the subscription or publication by hand; older proofs are stale.",
    ProblemCode.WORKER_DOWN: "The subscription is enabled, and no apply worker runs or reads the slot.",
    ProblemCode.WORKER_LOOPING: "The apply worker ends and starts again and again.",
    ProblemCode.APPLY_ERRORS: "The base counted errors while it applied changes.",
    ProblemCode.CONFLICTS: "Changes met rows that are not as the legacy left them: somebody wrote to the base.",
    ProblemCode.SLOT_MISSING: "The replication slot is gone from the legacy.",
    ProblemCode.SLOT_LOST: "The slot lost WAL that the base still needs.",
    ProblemCode.SLOT_AT_RISK: "The legacy is about to remove WAL that the base still needs.",
    ProblemCode.LAG: "The base is further behind than the thresholds allow.",
    ProblemCode.HEARTBEAT_FAILED: "The marker that measures the lag could not be written on the legacy.",
    ProblemCode.RETAINED_WAL: "The legacy keeps more WAL for the slot than the thresholds allow.",
    ProblemCode.WAL_ROOM: "At the present rate there will soon be no room for the WAL that the slot keeps.",
    ProblemCode.STREAM_STANDING: "The stream stands for longer than a step needs.",
    ProblemCode.PUBLICATION_MISSING: "The publication is gone from the legacy.",
    ProblemCode.PUBLICATION_ALTERED: "The publication's tables, filter or options are not those that it was left with.",
    ProblemCode.IDENTITY_ALTERED: "The table's replica identity on the legacy is not the one that the stream needs.",
    ProblemCode.GUARD_MISSING: "The trigger that refuses TRUNCATE on the legacy is gone or disabled.",
    ProblemCode.MARKER_KEY_MISSING: "The primary key of the marker table is gone, on which every consistent cut rests.",
    ProblemCode.COLUMNS_DIFFER: "A column or a type differs between legacy and base.",
    ProblemCode.RIGHTS_MISSING: "A right is missing that the stream or the watch needs.",
    ProblemCode.LEAF_MISSING: "Somebody detached or dropped the leaf of a week under CDC.",
    ProblemCode.UPDATES_REFUSED: "Another publication makes the server refuse updates and deletes of the table.",
    ProblemCode.FOREIGN_SLOT_STANDS: "A subscriber of all tables stopped at our markers, and its slot keeps WAL.",
    ProblemCode.RUNWAY: "The base's open partitions end soon, or a quarter that should be open is not.",
    ProblemCode.ROWS_OUTSIDE: "The legacy has rows that no open week can take, or a week that left was changed.",
    ProblemCode.WRITES_HELD: "The side that writes belong to refuses them.",
    ProblemCode.CUTOVER_UNFINISHED: "A cutover or rollback died while nobody was held.",
    ProblemCode.LEGACY_WRITABLE: "The base is in charge, and the legacy's hold does not hold everybody.",
    ProblemCode.BASE_UNGUARDED: "The base is in charge, and a TRUNCATE of it would not reach the legacy.",
    ProblemCode.BASE_LEAF_LOST: "The base is in charge, and somebody detached or dropped the leaf of a week.",
    ProblemCode.REVERSE_DOWN: "The reverse subscription is disabled, gone, late, or without a worker.",
    ProblemCode.REVERSE_SLOT_LOST: "The base lost, or is about to remove, WAL that the legacy still needs.",
    ProblemCode.REVERSE_RETAINED_WAL: "The base keeps more WAL for the legacy than the thresholds allow.",
    ProblemCode.REVERSE_APPLY_ERRORS: "The legacy cannot apply a change that was made on the base.",
    ProblemCode.SERVER_CHANGED: "A server failed over, was restored or was moved: changes may have been skipped.",
}
"""What each problem means, in one sentence; the documentation lists them."""

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
    """An object that the stream depends on is not as it was built."""

    code: ProblemCode
    what: str


@dataclass(frozen=True)
class StreamSample:
    """One observation; None is "not known", most often because a side was away.

    Attributes:
        relation: The table's key in the ledger.
        taken_at: By the watcher's clock, like all times of samples and alerts; aware.
        base_error: Why the base could not be asked; None if it answered.
        legacy_error: Why the legacy could not be asked; None if it answered.
        status: The stream's status in the ledger; None if there is no stream or the base could not be asked.
        reason: Why it has that status.
        status_seconds: For how long it has had it, by the base's clock.
        worked_on_by: The session that holds the stream exclusively now; it may cause what looks odd.
        subscription_exists: Whether this database of the base has the subscription.
        subscription_enabled: Whether `pg_subscription` shows it as enabled.
        worker_pids: Every apply worker seen during the look: none, one, or several if the worker keeps restarting.
        worker_waits_for: The session whose locks the apply worker waits for: pid, role and application.
        apply_errors: `apply_error_count`; it does not grow while the slot is lost.
        conflicts: The conflict counters of PostgreSQL 18 by name; empty on older servers.
        worker_message: The apply worker's newest error, without row values; None if the log cannot be read.
        stricter: What the base refuses and the legacy accepts, if that could be compared.
        slot_exists: Whether the legacy has the replication slot.
        slot_active: Whether a walsender reads the slot.
        wal_status: `reserved`, `extended`, `unreserved` or `lost`.
        safe_wal_bytes: WAL that can be written before the slot is lost; None without `max_slot_wal_keep_size`.
        retained_wal_bytes: WAL that the legacy keeps for the slot (`restart_lsn`).
        unconfirmed_bytes: WAL that the base has not confirmed.
        lag_seconds: Travel time of this look's heartbeat; if it did not arrive in time, the age by the legacy's clock
            of the oldest marker that is not on the base. None if no heartbeat was sent.
        heartbeat_arrived: Whether this look's heartbeat arrived in time; None if none was sent.
        heartbeat_error: Why no heartbeat could be sent.
        legacy_active_sessions: Sessions of others at work on the legacy; None if our role may not see them.
        drifts: What was altered; None if that could not be examined, or changed meanwhile.
        foreign_slots: The position of each logical slot of others on the legacy, while a publication of others
            contains our tables; None if that was not examined.
        proofs_outlived: A manual alteration of the stream after which some weeks were not proven again, in words.
        runway_days: Days until the first instant without a leaf or without CDC; also None while the stream works on the
            past and has not reached the present.
        runway_ends: The week at which the runway ends, and what it lacks.
        server_changes: Why a server is not the one that the stream was built on, or has lost data; empty if both are
            unchanged.
        outside: Rows of the legacy that fit no open week, in words; None if unknown, or before the first successful
            gate check of a cutover.
        cutover: What was observed about cutovers; None if that was not examined.
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
        """Whether the base is in charge, so that nothing flows from the legacy."""
        return self.cutover is not None and self.cutover.base_in_charge

    @property
    def seconds_behind(self) -> float | None:
        """The lag of the change stream or, while the base is in charge, of the reverse stream."""
        if self.cutover is None or not self.base_in_charge:
            return self.lag_seconds
        return self.cutover.reverse.lag_seconds if self.cutover.reverse else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values for the ledger, which `from_json` reads."""
        cutover = self.cutover.to_json() if self.cutover else None
        return {**asdict(self), "taken_at": self.taken_at.isoformat(), "cutover": cutover}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StreamSample":
        """Read a stored sample; fields that only another version of this program knows are ignored."""
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


class Severity(StrEnum):
    """How bad a problem is."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class StreamThresholds:
    """Where a figure becomes a problem; see the settings of the same names. GB are 10^9 bytes."""

    lag_warning_seconds: float = 30.0
    lag_critical_seconds: float = 300.0
    retained_wal_warning_gb: float = 8.0
    retained_wal_critical_gb: float = 12.0
    wal_room_warning_minutes: float = 120.0
    legacy_wal_disk_gb: float | None = None
    pause_warning_seconds: float = 300.0
    runway_days: float = 14.0
    # A working cutover ends by itself within MIGRATION_CUTOVER_TIMEOUT_SECONDS; this is a little more.
    writes_held_seconds: float = 65.0

    def stricter(self, factor: float) -> "StreamThresholds":
        """Thresholds for days with many changes: limits are divided by `factor`, the room for WAL is multiplied."""
        return replace(
            self,
            lag_warning_seconds=self.lag_warning_seconds / factor,
            lag_critical_seconds=self.lag_critical_seconds / factor,
            retained_wal_warning_gb=self.retained_wal_warning_gb / factor,
            retained_wal_critical_gb=self.retained_wal_critical_gb / factor,
            wal_room_warning_minutes=self.wal_room_warning_minutes * factor,
            pause_warning_seconds=self.pause_warning_seconds / factor,
        )


def high_change(day: date, calendar: FiscalCalendar, days: int) -> str | None:
    """`quarter end` or `month end` within `days` days before or after one; None on other days.

    A fiscal quarter begins on the first of a month, so every end of a quarter is also an end of a month.
    """
    if day.day > days and (day + timedelta(days=days)).month == day.month:
        return None
    quarter = calendar.days_of(calendar.quarter_of_day(day))
    at_edge = (day - quarter.first).days < days or (quarter.end - day).days <= days
    return "quarter end" if at_edge else "month end"
