"""Which stream is meant, and how patiently and gently work on it is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from migration_assets.domain.deletions import DeletionLimit, Deletions
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Databases, Timeouts


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
        """Of sessions that read whole slices or stand still in a transaction while others do."""
        return Timeouts(lock=10_000, statement=self.statement_seconds * 1000, idle_in_transaction=0)


@dataclass(frozen=True)
class StreamPlan:
    """One migration's stream; `legacy_url_for_base` is the legacy as the base's own server reaches it.

    `confirmed_deletes` is how many rows of a week a person allows to be deleted where that asks for it.
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
        """How many rows of a week may be deleted."""
        return Deletions(self.limits.deletions, self.confirmed_deletes)
