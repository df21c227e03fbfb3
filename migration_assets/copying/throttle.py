"""What is to be copied, how patiently, and the brake that holds a copy back while a server or the stream is busy."""

import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg

from migration_assets.domain.errors import HeldBackError, MigrationError
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.samples import StreamSample
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.samples import latest_sample
from migration_assets.ledger.schema import has_ledger
from migration_assets.ledger.stream import StreamStatus, read_stream
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import LOOK, Connected, Databases, Side, Timeouts
from migration_assets.runtime import Migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.heartbeats import age_of_oldest_under_way, newest_arrived, prune_heartbeats, send_heartbeat
from migration_assets.stream.plan import StreamLimits
from migration_assets.stream.slots import measure_legacy

_LOOK_SECONDS = 1.0
_FRESH_SECONDS = 10.0
_HEARTBEAT_SECONDS = 5.0
_KEEP_SECONDS = 3600.0
_TELL_SECONDS = 60.0
log = logging.getLogger(__name__)


class ThrottleError(MigrationError):
    """A copy was held back for longer than the settings allow."""


@dataclass(frozen=True)
class ThrottleLimits:
    """The limits above which a copy waits; 0 for never. With `patience_seconds` 0 it waits for as long as it takes.

    Attributes:
        lag_seconds: Lag of the change stream.
        retained_wal_gb: WAL that the legacy keeps for the stream's slot, in GB.
        legacy_active_sessions: Active sessions on the legacy.
        patience_seconds: When a waiting copy gives up; 0 for never.
        snapshot_seconds: How long all waits in one snapshot of the legacy may take together; 0 for no limit.
    """

    lag_seconds: float = 0.0
    retained_wal_gb: float = 0.0
    legacy_active_sessions: int = 0
    patience_seconds: float = 0.0
    snapshot_seconds: float = 0.0

    @property
    def off(self) -> bool:
        """Whether no limit is set."""
        return not (self.lag_seconds or self.retained_wal_gb or self.legacy_active_sessions)

    @classmethod
    def of(cls, settings: MigrationSettings) -> "ThrottleLimits":
        """As the settings say."""
        return cls(
            lag_seconds=settings.throttle_lag_seconds,
            retained_wal_gb=settings.throttle_retained_wal_gb,
            legacy_active_sessions=settings.throttle_legacy_active_sessions,
            patience_seconds=settings.throttle_patience_seconds,
            snapshot_seconds=settings.throttle_snapshot_seconds,
        )


class Throttle:
    """The brake of one try of a copy, used by one thread. It opens its own sessions when first asked; `close` it."""

    def __init__(self, databases: Databases, relation: str, limits: ThrottleLimits) -> None:
        self._databases = databases
        self._relation = relation
        self._limits = limits
        self._sessions: dict[Side, Connected] = {}
        self._reasons: list[str] = []
        self._looked_at = self._sent_at = float("-inf")
        self._waited_in_snapshot = 0.0

    def close(self) -> None:
        """Close the sessions; asking again opens new ones."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def reasons(self) -> list[str]:
        """Why a copy should wait now, with figures; empty to go on. Measures at most once a second."""
        if not self._limits.off and time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            self._reasons = self._look()
            self._looked_at = time.monotonic()
        return list(self._reasons)

    def wait(self, on_wait: Callable[[str], None] | None = None, *, in_snapshot: bool = False) -> float:
        """Wait until there is no reason to wait; logs the reason each minute, and when the copy goes on.

        Args:
            on_wait: Called with the same texts.
            in_snapshot: Whether a snapshot of the legacy is open. As VACUUM then removes no row that died since, all
                these waits together end after `snapshot_seconds`.

        Returns:
            Seconds waited.

        Raises:
            ThrottleError: `patience_seconds` passed.
            HeldBackError: `snapshot_seconds` passed.
        """
        reasons = self.reasons()
        if not reasons:
            return 0.0
        started, told_at = time.monotonic(), float("-inf")
        while reasons:
            waited = time.monotonic() - started
            if 0 < self._limits.patience_seconds <= waited:
                raise ThrottleError(
                    f"held back for {waited:,.0f} s: {'; '.join(reasons)}",
                    where=self._relation,
                    state_left="the week is in the base as it was",
                    next_step="run it again when the load is lower, or raise MIGRATION_THROTTLE_*",
                )
            if in_snapshot and 0 < self._limits.snapshot_seconds <= self._waited_in_snapshot + waited:
                raise HeldBackError(
                    f"held back for {self._waited_in_snapshot + waited:,.0f} s in one snapshot of the legacy:"
                    f" {'; '.join(reasons)}",
                    where=self._relation,
                    state_left="the snapshot is closed; the week is in the base as it was",
                    next_step="run it again in calmer hours, or raise MIGRATION_THROTTLE_*; with a higher"
                    " MIGRATION_THROTTLE_SNAPSHOT_SECONDS it waits longer in its snapshot, and VACUUM cleans up later",
                )
            if time.monotonic() - told_at >= _TELL_SECONDS:
                told_at = time.monotonic()
                _tell(f"copy held back: {'; '.join(reasons)}" + self._how_long(waited), on_wait)
            time.sleep(max(0.0, self._looked_at + _LOOK_SECONDS - time.monotonic()))
            reasons = self.reasons()
        waited = time.monotonic() - started
        self._waited_in_snapshot += waited if in_snapshot else 0.0
        _tell(f"copy goes on after {waited:,.1f} s", on_wait)
        return waited

    def _how_long(self, waited: float) -> str:
        patience = self._limits.patience_seconds
        left = f"gives up in {patience - waited:,.0f} s" if patience else "waits for as long as it takes"
        return f" ({waited:,.0f} s so far; {left})"

    def _look(self) -> list[str]:
        try:
            return self._judge(self._measure())
        except psycopg.Error as error:
            # The copy's own sessions will find out what is wrong; the throttle must not be what stops it.
            log.warning("the throttle could not measure the load, and lets the copy go on: %s", told(error))
            self.close()
            return []

    def _measure(self) -> StreamSample:
        """The last look, where it is fresh; else a cheap look of its own."""
        base = self._session("base")
        if not has_ledger(base):
            record = None
        else:
            record = read_stream(base, self._relation)
            last = latest_sample(base, self._relation)
            if last is not None and last.age_seconds <= _FRESH_SECONDS and last.sample.legacy_error is None:
                return last.sample
        legacy = self._session("legacy")
        measured = measure_legacy(legacy, record.slot if record else "")
        if record is None:
            return measured
        measured = replace(measured, status=record.status)
        if record.status is not StreamStatus.LIVE or not self._limits.lag_seconds:
            return measured
        lag = age_of_oldest_under_way(legacy, self._relation, newest_arrived(base, self._relation))
        if lag is None and time.monotonic() - self._sent_at >= _HEARTBEAT_SECONDS:
            # Where no watch runs, nobody else sends the heartbeats that tell the lag.
            self._sent_at = time.monotonic()
            prune_heartbeats(legacy, base, self._relation, keep_seconds=_KEEP_SECONDS)
            send_heartbeat(legacy, self._relation)
        return replace(measured, lag_seconds=lag)

    def _session(self, side: Side) -> Connected:
        session = self._sessions.get(side)
        if session is None or session.closed:
            session = self._sessions[side] = self._databases.connect(side, "throttle", LOOK)
        return session

    def _judge(self, sample: StreamSample) -> list[str]:
        limits, reasons = self._limits, list[str]()
        lag, kept, active = sample.lag_seconds, sample.retained_wal_bytes, sample.legacy_active_sessions
        # A stream that rests on purpose does not catch up sooner if a copy waits.
        live = sample.status == StreamStatus.LIVE
        if limits.lag_seconds and live and lag is not None and lag > limits.lag_seconds:
            reasons.append(f"lag {lag:,.1f} s is over {limits.lag_seconds:g} s")
        if limits.retained_wal_gb and live and kept is not None and kept / 1e9 > limits.retained_wal_gb:
            reasons.append(f"retained WAL {kept / 1e9:,.3f} GB is over {limits.retained_wal_gb:g} GB")
        if limits.legacy_active_sessions and active is not None and active > limits.legacy_active_sessions:
            reasons.append(f"{active} active sessions on the legacy are over {limits.legacy_active_sessions}")
        return reasons


def _tell(text: str, on_wait: Callable[[str], None] | None) -> None:
    log.info(text)
    if on_wait is not None:
        on_wait(text)


@contextmanager
def throttle(databases: Databases, relation: str, limits: ThrottleLimits) -> Generator[Throttle]:
    """Open a throttle for one try of a copy."""
    made = Throttle(databases, relation, limits)
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class CopyLimits:
    """How long a copy may wait and how often it is tried; see the settings of the same names."""

    lock_timeout_ms: int = 200
    lock_patience_seconds: float = 60.0
    copy_timeout_seconds: int = 4 * 3600
    idle_timeout_seconds: int = 900
    maintenance_work_mem_mb: int = 256
    index_workers: int = 0
    attempts: int = 5

    def timeouts(self) -> Timeouts:
        """Timeouts of both sessions of a copy: statements may take long, waits for locks are short."""
        return Timeouts(
            lock=5_000,
            statement=self.copy_timeout_seconds * 1000,
            idle_in_transaction=self.idle_timeout_seconds * 1000,
        )

    @classmethod
    def of(cls, settings: MigrationSettings) -> "CopyLimits":
        """As the settings say."""
        return cls(
            lock_timeout_ms=settings.lock_timeout_ms,
            lock_patience_seconds=settings.lock_patience_seconds,
            copy_timeout_seconds=settings.copy_timeout_seconds,
            idle_timeout_seconds=settings.idle_timeout_seconds,
            maintenance_work_mem_mb=settings.maintenance_work_mem_mb,
            index_workers=settings.index_workers,
            attempts=settings.retry_attempts,
        )


@dataclass(frozen=True)
class SliceCopy:
    """One slice that is to be copied, with everything that the copy needs."""

    spec: TableSpec
    calendar: FiscalCalendar
    week: FiscalWeek
    limits: CopyLimits = field(default_factory=CopyLimits)
    stream: StreamLimits = field(default_factory=StreamLimits)
    throttle: ThrottleLimits = field(default_factory=ThrottleLimits)
    run_id: str | None = None
    confirmed_deletes: Mapping[FiscalWeek, int] = field(default_factory=dict[FiscalWeek, int])

    @property
    def waits_for_long(self) -> bool:
        """Whether the copy may be held back in its snapshot for longer than its idle timeout."""
        return not self.throttle.off and not 0 < self.throttle.snapshot_seconds < self.limits.idle_timeout_seconds

    @classmethod
    def of(
        cls,
        migration: Migration,
        week: FiscalWeek,
        run_id: str | None = None,
        confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
    ) -> "SliceCopy":
        """The plan of one slice's copy."""
        settings = migration.settings
        return cls(
            migration.spec,
            migration.calendar,
            week,
            CopyLimits.of(settings),
            StreamLimits.of(settings),
            ThrottleLimits.of(settings),
            run_id,
            confirmed_deletes or {},
        )
