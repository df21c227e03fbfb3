"""Settings turned into what the work is done with: the table, the calendar, the two databases."""

import os
import pwd
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from migration_assets.domain.deletions import DeletionLimit
from migration_assets.domain.doer import USER_TAGS, Doer
from migration_assets.domain.errors import SettingsError
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.runway import RunwayPolicy
from migration_assets.domain.stream_thresholds import StreamThresholds
from migration_assets.domain.table_spec import TableSpec
from migration_assets.embedded.bookings import AS_OF
from migration_assets.embedded.privileges import server_user
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.copy_plan import CopyLimits, SliceCopy
from migration_assets.postgres.sessions import Databases
from migration_assets.postgres.stream_plan import StreamLimits, StreamPlan
from migration_assets.postgres.throttle import ThrottleLimits
from migration_assets.settings import STORAGE_URL, MigrationSettings


@dataclass(frozen=True)
class Migration:
    """One migration, ready to work on. Holds no connection; its repr shows no secret."""

    settings: MigrationSettings
    databases: Databases

    @property
    def spec(self) -> TableSpec:
        """Table and control column."""
        return self.settings.spec()

    @property
    def calendar(self) -> FiscalCalendar:
        """The fiscal calendar."""
        return self.settings.calendar()

    def now(self) -> datetime:
        """The clock, unless a setting replaces it; the embedded legacy has a present of its own. Aware."""
        return self.settings.as_of or (AS_OF if self.settings.embedded else datetime.now(UTC))

    @property
    def limits(self) -> CopyLimits:
        """Timeouts, patience and tries of a copy."""
        return CopyLimits(
            lock_timeout_ms=self.settings.lock_timeout_ms,
            lock_patience_seconds=self.settings.lock_patience_seconds,
            copy_timeout_seconds=self.settings.copy_timeout_seconds,
            idle_timeout_seconds=self.settings.idle_timeout_seconds,
            maintenance_work_mem_mb=self.settings.maintenance_work_mem_mb,
            index_workers=self.settings.index_workers,
            attempts=self.settings.retry_attempts,
        )

    @property
    def thresholds(self) -> StreamThresholds:
        """Where a figure of the stream becomes a problem, on an ordinary day."""
        return StreamThresholds(
            lag_warning_seconds=self.settings.lag_warning_seconds,
            lag_critical_seconds=self.settings.lag_critical_seconds,
            retained_wal_warning_gb=self.settings.retained_wal_warning_gb,
            retained_wal_critical_gb=self.settings.retained_wal_critical_gb,
            wal_room_warning_minutes=self.settings.wal_room_warning_minutes,
            legacy_wal_disk_gb=self.settings.legacy_wal_disk_gb,
            pause_warning_seconds=self.settings.pause_warning_seconds,
            runway_days=self.settings.runway_days,
            writes_held_seconds=self.settings.cutover_timeout_seconds + 5.0,
        )

    @property
    def throttle_limits(self) -> ThrottleLimits:
        """Above which bulk copies wait."""
        return ThrottleLimits(
            lag_seconds=self.settings.throttle_lag_seconds,
            retained_wal_gb=self.settings.throttle_retained_wal_gb,
            legacy_active_sessions=self.settings.throttle_legacy_active_sessions,
            patience_seconds=self.settings.throttle_patience_seconds,
            snapshot_seconds=self.settings.throttle_snapshot_seconds,
        )

    def copy_of(
        self, week: FiscalWeek, run_id: str | None = None, confirmed_deletes: Mapping[FiscalWeek, int] | None = None
    ) -> SliceCopy:
        """The plan of one slice's copy."""
        return SliceCopy(
            self.spec,
            self.calendar,
            week,
            self.limits,
            self.stream_limits,
            self.throttle_limits,
            run_id,
            confirmed_deletes or {},
        )

    @property
    def stream_limits(self) -> StreamLimits:
        """How patient and how gentle cuts and true-ups are."""
        return StreamLimits(
            cut_lock_timeout_ms=self.settings.cut_lock_timeout_ms,
            cut_patience_seconds=self.settings.cut_patience_seconds,
            stream_patience_seconds=self.settings.stream_patience_seconds,
            statement_seconds=self.settings.copy_timeout_seconds,
            parallel=self.settings.weeks_at_once,
            attempts=self.settings.retry_attempts,
            join_rows=self.settings.join_rows,
            recopy_percent=self.settings.recopy_percent,
            deletions=DeletionLimit(self.settings.delete_limit_percent, self.settings.delete_limit_rows),
        )

    @property
    def runway_policy(self) -> RunwayPolicy:
        """How early quarters are open, and how many always are."""
        return RunwayPolicy(days=self.settings.runway_days, quarters=self.settings.runway_quarters)

    def stream_plan(
        self, run_id: str | None = None, confirmed_deletes: Mapping[FiscalWeek, int] | None = None
    ) -> StreamPlan:
        """The plan of any work on the change stream."""
        url = self.settings.legacy_url_for_base
        return StreamPlan(
            self.databases,
            self.spec,
            self.calendar,
            self.stream_limits,
            run_id,
            url.get_secret_value() if url else None,
            confirmed_deletes or {},
        )


def keep_files_private(settings: MigrationSettings) -> None:
    """What this process and its children write from now on is for nobody else, or for the group alone if it may.

    The embedded servers of root run as somebody else, who has to get through folders; they do not open to his eyes.
    """
    taken = 0o027 if settings.files_for_group else 0o077
    if settings.embedded and server_user() is not None:
        taken &= ~0o011
    os.umask(taken)


def open_migration(settings: MigrationSettings) -> Migration:
    """Resolve the databases; nothing is connected to. Files are private from now on, see `keep_files_private`.

    Raises:
        EmbeddedServerError: No URLs are set and the embedded servers were never started.
    """
    keep_files_private(settings)
    if settings.legacy_url is not None and settings.base_url is not None:
        urls = settings.legacy_url.get_secret_value(), settings.base_url.get_secret_value()
    else:
        servers = EmbeddedServers(settings.var)
        urls = servers.legacy_url(), servers.base_url()
    return Migration(settings, Databases(*urls, _this_process(), settings.own_schema))


def launched_by(migration: Migration, tags: Mapping[str, str]) -> Migration:
    """The same for a run: of its tags, those that name a person are noted with what it does."""
    databases = migration.databases
    doer = databases.doer and replace(databases.doer, tags={name: tags[name] for name in USER_TAGS if name in tags})
    return replace(migration, databases=replace(databases, doer=doer))


def _this_process() -> Doer:
    # Not by the environment's LOGNAME, which says what anybody wants.
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = ""
    return Doer(user, socket.gethostname())


def project_folder() -> Path:
    """Where `dagster.yaml` and `workspace.yaml` lie: Dagster's home."""
    return Path(__file__).resolve().parent.parent


def dagster_environment(settings: MigrationSettings) -> Mapping[str, str]:
    """The variables that `dagster.yaml` reads; to be set before Dagster's instance is opened.

    Raises:
        SettingsError: The databases are real ones and MIGRATION_DAGSTER_URL is not set.
        EmbeddedServerError: The embedded servers are wanted and were never started.
    """
    keep_files_private(settings)
    if settings.dagster_url is None and settings.embedded:
        url = EmbeddedServers(settings.var).dagster_url()
    elif settings.dagster_url is None:
        raise SettingsError(
            "MIGRATION_DAGSTER_URL is not set",
            where="settings",
            state_left="nothing was touched",
            next_step="create an empty database for Dagster's own runs and events, anywhere, and set its URL",
        )
    else:
        # Left to itself SQLAlchemy takes psycopg 3, whose NOTIFY with a parameter dagster-postgres trips over.
        url = re.sub(r"^postgres(ql)?:", "postgresql+psycopg2:", settings.dagster_url.get_secret_value())
    return {
        "DAGSTER_HOME": str(project_folder()),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        STORAGE_URL: url,
        "DAGSTER_STORAGE_FOLDER": str(settings.var / "dagster"),
    }
