"""The plan of work on the change stream: which stream, and how patiently and gently the work is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from migration_assets.domain.confirmation import DeletionLimit, Deletions
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Databases, Timeouts
from migration_assets.runtime import Migration
from migration_assets.settings import MigrationSettings

# A pause or a join of a whole quarter keeps the stream's lock for as long as copying its rows takes.
STREAM_LOCK_MS = 600_000
# Who holds a week's lock works on that week and may do so for hours: it is not waited for.
SLICE_LOCK_MS = 5_000


@dataclass(frozen=True)
class StreamLimits:
    """How long a step may wait, and how long it may make others wait; see the settings of the same names."""

    cut_lock_timeout_ms: int = 100
    cut_patience_seconds: float = 60.0
    stream_patience_seconds: float = 600.0
    statement_seconds: int = 4 * 3600
    parallel: int = 2
    attempts: int = 5
    join_rows: int = 100_000
    recopy_percent: float = 25.0
    deletions: DeletionLimit = field(default_factory=DeletionLimit)

    def timeouts(self) -> Timeouts:
        """Timeouts of sessions that read whole slices, or that stay idle in a transaction while others do."""
        return Timeouts(lock=10_000, statement=self.statement_seconds * 1000, idle_in_transaction=0)

    def stream_timeouts(self) -> Timeouts:
        """Timeouts of sessions that wait for the stream's lock and keep it for the whole step."""
        return replace(self.timeouts(), lock=STREAM_LOCK_MS)

    @classmethod
    def of(cls, settings: MigrationSettings) -> "StreamLimits":
        """Return the limits that the settings ask for."""
        return cls(
            cut_lock_timeout_ms=settings.cut_lock_timeout_ms,
            cut_patience_seconds=settings.cut_patience_seconds,
            stream_patience_seconds=settings.stream_patience_seconds,
            statement_seconds=settings.copy_timeout_seconds,
            parallel=settings.weeks_at_once,
            attempts=settings.retry_attempts,
            join_rows=settings.join_rows,
            recopy_percent=settings.recopy_percent,
            deletions=DeletionLimit(settings.delete_limit_percent, settings.delete_limit_rows),
        )


@dataclass(frozen=True)
class StreamPlan:
    """One migration's stream; `legacy_url_for_base` is the legacy's URL as the base's own server reaches it.

    `confirmed_deletes` is how many rows of a week a person has confirmed to be deleted.
    """

    databases: Databases
    spec: TableSpec
    calendar: FiscalCalendar
    limits: StreamLimits = field(default_factory=StreamLimits)
    run_id: str | None = None
    legacy_url_for_base: str | None = field(default=None, repr=False)
    confirmed_deletes: Mapping[FiscalWeek, int] = field(default_factory=dict[FiscalWeek, int])

    @property
    def relation(self) -> str:
        """The table's key in the ledger."""
        return self.spec.relation

    @property
    def deletions(self) -> Deletions:
        """How many rows of a week may be deleted without asking, and how many a person confirmed."""
        return Deletions(self.limits.deletions, self.confirmed_deletes)

    @classmethod
    def of(
        cls, migration: Migration, run_id: str | None = None, confirmed_deletes: Mapping[FiscalWeek, int] | None = None
    ) -> "StreamPlan":
        """The settings as the plan of work on the change stream."""
        url = migration.settings.legacy_url_for_base
        return cls(
            migration.databases,
            migration.spec,
            migration.calendar,
            StreamLimits.of(migration.settings),
            run_id,
            url.get_secret_value() if url else None,
            confirmed_deletes or {},
        )
