"""What is to be copied, on whose behalf, and how patiently."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from migration_assets.copying.throttle import ThrottleLimits
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Timeouts
from migration_assets.runtime import Migration
from migration_assets.settings import MigrationSettings
from migration_assets.stream.plan import StreamLimits


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
        """Of both sessions of a copy: long statements, and short waits for locks."""
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
    """What is to be copied, on whose behalf."""

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
        """Whether it may be held back, in its snapshot, for longer than an idle session is believed to live."""
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
