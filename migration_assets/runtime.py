"""Turns settings into the objects that all steps work with: the table, the calendar, and both databases."""

import os
import pwd
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from migration_assets.domain.errors import SettingsError
from migration_assets.domain.evidence_chain import USER_TAGS, Doer
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.runway import RunwayPolicy
from migration_assets.domain.samples import StreamThresholds
from migration_assets.domain.table_spec import TableSpec
from migration_assets.embedded.bookings import AS_OF
from migration_assets.embedded.processes import server_user
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets.settings import STORAGE_URL, MigrationSettings

# Dagster pool of steps that read much of the legacy, one slot for each week.
LEGACY_READ_POOL = "legacy_read"
# Dagster pool with one slot: each of its steps works on as many weeks at once as the other pool has slots.
MANY_WEEKS_POOL = "many_weeks"


@dataclass(frozen=True)
class Migration:
    """One migration, ready to work on. It holds no connection, and its repr shows no secret."""

    settings: MigrationSettings
    databases: Databases

    @property
    def spec(self) -> TableSpec:
        """The table and its control column."""
        return self.settings.spec()

    @property
    def calendar(self) -> FiscalCalendar:
        """The fiscal calendar."""
        return self.settings.calendar()

    def now(self) -> datetime:
        """The present time, aware: by the clock, the setting `as_of`, or the fixed date of the embedded legacy."""
        return self.settings.as_of or (AS_OF if self.settings.embedded else datetime.now(UTC))

    @property
    def thresholds(self) -> StreamThresholds:
        """The watch's thresholds on an ordinary day."""
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
    def runway_policy(self) -> RunwayPolicy:
        """How early quarters are opened, and how many are always open."""
        return RunwayPolicy(days=self.settings.runway_days, quarters=self.settings.runway_quarters)


def keep_files_private(settings: MigrationSettings) -> None:
    """Set the umask so that new files of this process and its children are private, or readable by the group if set.

    Embedded servers started by root run as another user, who must be able to enter the folders, but not to list them.
    """
    taken = 0o027 if settings.files_for_group else 0o077
    if settings.embedded and server_user() is not None:
        taken &= ~0o011
    os.umask(taken)


def open_migration(settings: MigrationSettings) -> Migration:
    """Find out both databases without connecting to them. New files are private, see `keep_files_private`.

    Raises:
        EmbeddedServerError: No URLs are set, and the embedded servers were never started.
    """
    keep_files_private(settings)
    if settings.legacy_url is not None and settings.base_url is not None:
        urls = settings.legacy_url.get_secret_value(), settings.base_url.get_secret_value()
    else:
        servers = EmbeddedServers(settings.var)
        urls = servers.legacy_url(), servers.base_url()
    return Migration(settings, Databases(*urls, _this_process(), settings.own_schema))


def launched_by(migration: Migration, tags: Mapping[str, str]) -> Migration:
    """The same migration for a Dagster run: tags that name a person are recorded in the ledger with its work."""
    databases = migration.databases
    doer = databases.doer and replace(databases.doer, tags={name: tags[name] for name in USER_TAGS if name in tags})
    return replace(migration, databases=replace(databases, doer=doer))


def _this_process() -> Doer:
    # By the uid and not by LOGNAME, which anyone can set.
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = ""
    return Doer(user, socket.gethostname())


def project_folder() -> Path:
    """Dagster's home: the folder with `dagster.yaml` and `workspace.yaml`."""
    return Path(__file__).resolve().parent.parent


def dagster_environment(settings: MigrationSettings) -> Mapping[str, str]:
    """The environment variables that `dagster.yaml` reads; set them before Dagster's instance is opened.

    Raises:
        SettingsError: The databases are not the embedded ones, and MIGRATION_DAGSTER_URL is not set.
        EmbeddedServerError: The embedded servers are to be used and were never started.
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
        # Name the driver: by default SQLAlchemy takes psycopg 3, with which the NOTIFY of dagster-postgres fails.
        url = re.sub(r"^postgres(ql)?:", "postgresql+psycopg2:", settings.dagster_url.get_secret_value())
    return {
        "DAGSTER_HOME": str(project_folder()),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        STORAGE_URL: url,
        "DAGSTER_STORAGE_FOLDER": str(settings.var / "dagster"),
    }
