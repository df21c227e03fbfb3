"""The settings of a migration: `MIGRATION_*` variables from the environment, `.env` or files with secrets.

No other module reads these variables.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from migration_assets.domain.errors import MigrationError, SettingsError
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.longest import endless
from migration_assets.domain.schema_name import DEFAULT_SCHEMA, quarantine_schema, schema_flaw
from migration_assets.domain.session_places import SessionLimits, weeks_at_once
from migration_assets.domain.table_spec import QualifiedName, TableSpec

PREFIX = "MIGRATION_"
STORAGE_URL = "DAGSTER_STORAGE_URL"
"""The variable that `dagster.yaml` reads; `runtime.dagster_environment` sets it from the settings."""
_FILE = "_FILE"
_SECRETS_FOLDER = f"{PREFIX}SECRETS_FOLDER"
_URL_SCHEMES = ("postgresql", "postgres")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME = r"([a-z0-9.-]+|\[[0-9a-f:]+\])"
_ORIGIN = re.compile(rf"http://{_NAME}(:(?!80$)\d+)?|https://{_NAME}(:(?!443$)\d+)?")
_BETWEEN_URLS = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


class MigrationSettings(BaseSettings):
    """Everything that can differ between two migrations. Frozen; build it with `load_settings` for readable errors."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    legacy_url: SecretStr | None = Field(
        default=None, description="URL of the legacy database; unset: the embedded one"
    )
    base_url: SecretStr | None = Field(default=None, description="URL of the base database; unset: the embedded one")
    dagster_url: SecretStr | None = Field(
        default=None, description="URL of Dagster's storage; unset: on the embedded base"
    )
    legacy_url_for_base: SecretStr | None = Field(
        default=None, description="URL by which the base's server reaches the legacy; unset: LEGACY_URL"
    )
    base_url_for_legacy: SecretStr | None = Field(
        default=None, description="URL by which the legacy's server reaches the base; unset: BASE_URL"
    )

    table: str = Field(default="public.amenity_bookings", description="the table, written as in SQL, on both sides")
    own_schema: str = Field(
        default=DEFAULT_SCHEMA, description="this program's own schema on both sides: the ledger, markers, locks"
    )
    control_column: str = Field(default="booked_at", description="column that decides the partition; exact case")

    fiscal_start_month: int = Field(default=1, ge=1, le=12, description="month in which a fiscal year starts")
    fiscal_label_offset: int = Field(default=1, description="year in the label minus calendar year of the start")
    fiscal_time_zone: str = Field(default="UTC", description="IANA time zone whose midnights separate the weeks")
    as_of: datetime | None = Field(default=None, description="replaces the present time in every step")

    parallel_copies: int = Field(default=2, ge=1, le=64, description="slices copied at once")
    legacy_sessions: int = Field(
        default=0, ge=0, description="most sessions on the legacy, kept by working on fewer weeks at once; 0: no limit"
    )
    base_sessions: int = Field(default=0, ge=0, description="most sessions on the base, in the same way; 0: no limit")
    window_hours: float = Field(default=3.0, gt=0, description="length of the maintenance window, hours")
    target_gb_per_hour: float = Field(default=72.22, gt=0, description="rate the window needs, 10^9 bytes/hour")

    lock_timeout_ms: int = Field(
        default=200, ge=10, le=60_000, description="wait of one try for a lock on the base, ms"
    )
    lock_patience_seconds: float = Field(default=60.0, ge=0, description="how long such tries are repeated, s")
    copy_timeout_seconds: int = Field(default=4 * 3600, ge=10, description="longest single statement of a copy, s")
    idle_timeout_seconds: int = Field(default=900, ge=10, description="longest idle time inside a transaction, s")
    retry_attempts: int = Field(default=5, ge=1, le=100, description="tries of a step when errors are transient")
    maintenance_work_mem_mb: int = Field(default=256, ge=1, description="memory of one index build on the base, MiB")
    index_workers: int = Field(default=0, ge=0, le=64, description="parallel workers of one index build on the base")
    cut_lock_timeout_ms: int = Field(
        default=100, ge=10, le=5_000, description="longest time that one try of a cut may hold the legacy's writers, ms"
    )
    cut_patience_seconds: float = Field(default=60.0, ge=0, description="how long such tries are repeated, s")
    stream_patience_seconds: float = Field(
        default=600.0, ge=1, description="how long a step waits for the stream to catch up, s"
    )
    validation_max_age_hours: float = Field(
        default=24.0, gt=0, description="age from which a validation is stale and prevents a sign-off, hours"
    )
    ongoing_validation_rows: int = Field(
        default=20_000_000, ge=1, description="most rows compared in one tick of ongoing validation"
    )
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=300, description="longest wait for a heartbeat's arrival, s")
    lag_warning_seconds: float = Field(default=30.0, gt=0, description="lag of the base that is a warning, s")
    lag_critical_seconds: float = Field(default=300.0, gt=0, description="lag of the base that is critical, s")
    retained_wal_warning_gb: float = Field(
        default=8.0, gt=0, description="WAL kept for the slot that is a warning, 10^9 bytes"
    )
    retained_wal_critical_gb: float = Field(
        default=12.0, gt=0, description="WAL kept for the slot that is critical, 10^9 bytes"
    )
    wal_room_warning_minutes: float = Field(
        default=120.0, gt=0, description="time until WAL reaches its limit: warning; critical at a quarter, min"
    )
    legacy_wal_disk_gb: float | None = Field(
        default=None, gt=0, description="room for WAL on the legacy if it has no max_slot_wal_keep_size, 10^9 bytes"
    )
    pause_warning_seconds: float = Field(default=300.0, gt=0, description="pause of the stream that is a warning, s")
    watch_factor: float = Field(default=2.0, ge=1, description="how much stricter the watch is around month ends")
    watch_days: int = Field(default=2, ge=0, le=14, description="days before and after a month's end with that factor")
    realert_minutes: float = Field(default=60.0, gt=0, description="time until an open alert is sent again, minutes")
    sample_days: float = Field(default=30.0, gt=0, description="how long samples of the stream are kept, days")
    record_days: float = Field(
        default=90.0, gt=0, description="how long attempts, preflights and cleared alerts are kept, days"
    )
    repair_image_days: float = Field(default=90.0, gt=0, description="how long a repair can be undone, days")
    alert_urls: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="apprise URLs that alerts are sent to, separated by spaces or commas"
    )

    throttle_lag_seconds: float = Field(default=120.0, ge=0, description="lag above which copies wait, s; 0: off")
    throttle_retained_wal_gb: float = Field(
        default=10.0, ge=0, description="retained WAL above which copies wait, 10^9 bytes; 0: off"
    )
    throttle_legacy_active_sessions: int = Field(
        default=0, ge=0, description="active sessions of others on the legacy above which copies wait; 0: off"
    )
    throttle_patience_seconds: float = Field(
        default=0.0, ge=0, description="longest wait of a copy, which then fails, s; 0: no limit"
    )
    throttle_snapshot_seconds: float = Field(
        default=600.0,
        ge=0,
        description="longest wait of a copy in one snapshot, after which it starts again, s; 0: off",
    )
    runway_days: int = Field(default=14, ge=0, le=366, description="how early a quarter is opened, days")
    runway_quarters: int = Field(default=2, ge=1, le=8, description="quarters that are always open, today's included")
    join_rows: int = Field(
        default=100_000, ge=0, description="most rows of a week that joins the stream without a copy"
    )
    recopy_percent: float = Field(
        default=25.0, ge=0, le=100, description="share of a week's rows that differ above which all are copied again, %"
    )
    delete_limit_percent: float = Field(
        default=20.0, ge=0, le=100, description="share of a week's rows that may be deleted without confirmation, %"
    )
    delete_limit_rows: int = Field(
        default=1_000, ge=0, description="rows of a week that may always be deleted so, unless the legacy shows none"
    )
    archive_url: SecretStr | None = Field(
        default=None, description="where archives go: a folder, s3://, gs:// or abfs:// URL; unset: archive in VAR"
    )
    archive_file_mb: int = Field(default=512, ge=1, description="approximate size of one Parquet file, MB")
    archive_row_group_rows: int = Field(default=100_000, ge=1_000, description="most rows of one row group")
    query_url: SecretStr | None = Field(
        default=None, description="URL of the base for queries, with a role that may only read; unset: BASE_URL"
    )
    query_memory_mb: int = Field(default=2048, ge=128, description="memory of one query over hot and cold rows, MB")
    retention_quarters: int = Field(
        default=8, ge=1, description="quarters that stay in the base, today's included; older ones are archived"
    )
    auto_retire: bool = Field(default=False, description="retire archived weeks automatically, without a code")
    quarantine_days: float = Field(
        default=7.0, ge=0, description="how long a detached leaf is kept before it is dropped, days"
    )
    drill_max_age_days: float = Field(
        default=92.0, gt=0, description="time without a restore drill of an archive that is a warning, days"
    )
    cutover_timeout_seconds: float = Field(
        default=60.0, ge=1, description="longest time in which no side accepts writes; then a cutover is undone, s"
    )
    cutover_lag_seconds: float = Field(
        default=5.0, gt=0, description="writes are held only once a marker arrives within this time, s"
    )
    cutover_patience_seconds: float = Field(
        default=60.0, ge=0, description="how long to wait for that, and for a gap between writers, s"
    )
    cutover_sequence_margin: int = Field(
        default=1000, ge=0, description="values that the target's sequences skip at a cutover"
    )
    cutover_compare_all: bool = Field(
        default=True, description="compare every week while writes are held; else, before, those that changed"
    )
    cutover_hook_command: SecretStr | None = Field(
        default=None, description="switches the applications; {to} becomes legacy or base; no shell; repeatable"
    )
    cutover_hook_url: SecretStr | None = Field(
        default=None, description='the same as a webhook, repeatable: POST of {"relation", "to", "cutover"}'
    )
    cutover_hook_secret: SecretStr | None = Field(
        default=None, description="key that signs the webhook's calls, so that the receiver can verify them"
    )
    cutover_hook_timeout_seconds: float = Field(default=30.0, gt=0, description="timeout of the hook, s")
    rollback_window_days: float = Field(
        default=14.0, ge=0, description="time after the cutover before the legacy may be decommissioned, days"
    )
    legacy_quiet_days: float = Field(
        default=7.0, ge=0, description="time without reads of its table before it may be, days; 0: not checked"
    )
    progress_seconds: float = Field(default=5.0, gt=0, description="pause between two progress observations, s")
    ui_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="further addresses of the UI as browsers show them: https://name[:port], by spaces"
    )

    var: Path = Field(default=Path("var"), description="folder for everything that is written at run time")
    files_for_group: bool = Field(
        default=False, description="let the group read the files that are written; else only the owner"
    )

    @field_validator("legacy_url", "base_url", "dagster_url", "legacy_url_for_base", "base_url_for_legacy", "query_url")
    @classmethod
    def _is_a_postgresql_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        # Dagster's URL may name a driver in SQLAlchemy's way: postgresql+psycopg2.
        try:
            scheme = urlsplit(value.get_secret_value()).scheme.split("+")[0]
        except ValueError:
            scheme = ""  # the error's text quotes the URL, so it is not shown
        if scheme not in _URL_SCHEMES:
            # The message does not show the value, which may contain a password.
            raise ValueError("expected postgresql://user@host:port/database")
        return value

    @field_validator("archive_url", "cutover_hook_command", "cutover_hook_url", "cutover_hook_secret")
    @classmethod
    def _says_something(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("is set and empty: unset it, or give it a value")
        return value

    @field_validator("cutover_hook_command")
    @classmethod
    def _is_a_command(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            words = shlex.split(value.get_secret_value()) if value else ["none"]
        except ValueError:
            words = []  # the error's text may quote the command, so it is not shown
        if not words or not words[0]:
            raise ValueError("expected a program and its arguments, quoted as for a shell")
        return value

    @field_validator("alert_urls", mode="before")
    @classmethod
    def _are_urls(cls, value: Any) -> Any:
        # A URL may contain commas: only a comma before the next scheme separates two URLs.
        urls = _BETWEEN_URLS.split(value.strip(" ,\t\n")) if isinstance(value, str) else value
        texts = [url.get_secret_value() if isinstance(url, SecretStr) else str(url) for url in urls if url]
        if any(not _URL.match(text) for text in texts):
            raise ValueError("expected apprise URLs such as mailto://… or https://…")
        return tuple(texts)

    @field_validator("ui_origins", mode="before")
    @classmethod
    def _are_origins(cls, value: Any) -> Any:
        texts = [text.rstrip("/") for text in (value.replace(",", " ").split() if isinstance(value, str) else value)]
        # Browsers send origins in exactly this form: one with a path, a `*` or a default port would never match.
        if any(not _ORIGIN.fullmatch(text) for text in texts):
            raise ValueError(
                "expected addresses such as https://migration.example.com, in small letters, without a path"
            )
        return tuple(texts)

    @field_validator("cutover_hook_url")
    @classmethod
    def _is_private_on_its_way(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            parts = urlsplit(value.get_secret_value()) if value else None
            plain = parts is not None and not (parts.scheme == "https" or (parts.scheme == "http" and _is_local(parts)))
        except ValueError:
            plain = True  # the error's text quotes the URL, so it is not shown
        if plain:
            raise ValueError("expected an https:// URL; http:// only on this machine")
        return value

    @field_validator("as_of")
    @classmethod
    def _has_a_zone(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value

    @field_validator("var")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("table")
    @classmethod
    def _is_a_table_name(cls, value: str) -> str:
        try:
            QualifiedName.parse(value)
        except MigrationError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("own_schema")
    @classmethod
    def _is_a_plain_name(cls, value: str) -> str:
        if flaw := schema_flaw(value):
            raise ValueError(flaw)
        return value

    @model_validator(mode="after")
    def _leaves_the_tables_schema_alone(self) -> Self:
        if self.spec().table.schema in {self.own_schema, quarantine_schema(self.own_schema)}:
            raise ValueError(f"{PREFIX}OWN_SCHEMA: the table lies in that schema; this program needs one for itself")
        return self

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if too_long := endless({name: getattr(self, name) for name in type(self).model_fields}):
            raise ValueError(PREFIX + too_long)
        for name in ("lag_{}_seconds", "retained_wal_{}_gb"):
            warning, critical = name.format("warning"), name.format("critical")
            if getattr(self, warning) > getattr(self, critical):
                raise ValueError(f"{PREFIX}{warning.upper()} is over {PREFIX}{critical.upper()}: it would never warn")
        return self

    @model_validator(mode="after")
    def _leaves_room_for_a_week(self) -> Self:
        try:
            _ = self.weeks_at_once
        except SettingsError as error:
            raise ValueError(f"{error.what}; {error.next_step}") from error
        return self

    @model_validator(mode="after")
    def _makes_a_calendar(self) -> Self:
        try:
            self.calendar()
        except MigrationError as error:
            raise ValueError(f"{PREFIX}FISCAL_*: {error}") from error
        if (self.legacy_url is None) != (self.base_url is None):
            unset = "LEGACY_URL" if self.legacy_url is None else "BASE_URL"
            # A real database on one side and an embedded one on the other is never intended.
            raise ValueError(f"{PREFIX}{unset} is not set while the other one is: set both, or neither for the demo")
        return self

    def calendar(self) -> FiscalCalendar:
        """The fiscal calendar of these settings."""
        return FiscalCalendar(
            start_month=self.fiscal_start_month, label_offset=self.fiscal_label_offset, time_zone=self.fiscal_time_zone
        )

    def spec(self) -> TableSpec:
        """The table and its control column."""
        return TableSpec(QualifiedName.parse(self.table), self.control_column)

    @property
    def weeks_at_once(self) -> int:
        """The number of weeks at once: as many as wanted, or fewer if the limits of sessions have no room for them."""
        return weeks_at_once(self.parallel_copies, SessionLimits(self.legacy_sessions, self.base_sessions))

    @property
    def cutover_hook_is_local(self) -> bool:
        """Whether the webhook's address is on this machine."""
        return self.cutover_hook_url is not None and _is_local(urlsplit(self.cutover_hook_url.get_secret_value()))

    def environment_without_secrets(self) -> dict[str, str]:
        """The environment for foreign programs: without variables that hold our secrets or name files with them."""
        ours = {f"{PREFIX}{name}{end}".upper() for name in SECRETS for end in ("", _FILE)}
        ours |= {STORAGE_URL, _SECRETS_FOLDER}
        return {name: value for name, value in os.environ.items() if name.upper() not in ours}

    def files_with_secrets(self) -> list[Path]:
        """Existing files that may hold a secret: `.env`, files that variables name, and files in the secrets folder."""
        env_file = Path(".env")
        present = {name.upper(): value for name, value in {**_file_of_variables(env_file), **os.environ}.items()}
        named = [present.get(f"{PREFIX}{name}{_FILE}".upper()) for name in SECRETS]
        folder = present.get(_SECRETS_FOLDER)
        in_folder = sorted(Path(folder).glob("*")) if folder else []
        return [path for path in (env_file, *(Path(name) for name in named if name), *in_folder) if path.is_file()]

    @property
    def embedded(self) -> bool:
        """Whether the embedded servers are used instead of real databases."""
        return self.legacy_url is None


SECRETS = tuple(name for name, of in MigrationSettings.model_fields.items() if "SecretStr" in str(of.annotation))
"""Names of the settings that may hold a secret."""


def _is_local(url: SplitResult) -> bool:
    """Whether a URL points at this machine, so that its traffic does not cross a network."""
    try:
        return url.hostname == "localhost" or ip_address(url.hostname or "").is_loopback
    except ValueError:
        return False  # a host name other than localhost


def _refused(what: str, next_step: str) -> SettingsError:
    return SettingsError(what, where="settings", state_left="nothing was touched", next_step=next_step)


def _from_files(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Read secrets from the files that `…_FILE` variables name."""
    given = {name.upper(): value for name, value in variables.items()}
    found: dict[str, str] = {}
    for name in SECRETS:
        variable = f"{PREFIX}{name}".upper()
        path = given.get(variable + _FILE)
        if path is None:
            continue
        try:
            if variable in given:
                raise _refused(f"{variable} and {variable}{_FILE} are both set", "unset one of them")
            found[name] = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise _refused(
                f"{variable}{_FILE}: the file cannot be read ({type(error).__name__})",
                "name a text file that contains only the value and that this user may read",
            ) from None
    return found


def _file_of_variables(env_file: Path | None) -> Mapping[str, str | None]:
    try:
        return dotenv_values(env_file) if env_file and env_file.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(
            f"{env_file} cannot be read ({type(error).__name__})",
            "make it a text file in UTF-8 that this user may read, or remove it",
        ) from None


def _secrets_folder(variables: Mapping[str, str | None]) -> Path | None:
    """The folder with one file for each secret, named like its variable, as containers provide them; None if unset."""
    named = next((value for name, value in variables.items() if name.upper() == _SECRETS_FOLDER), None)
    if named is None:
        return None
    folder = Path(named)
    try:
        found = [path for path in folder.iterdir() if path.name.upper().startswith(PREFIX)]
        for path in found:
            path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(
            f"{_SECRETS_FOLDER}: the folder or a file in it cannot be read ({type(error).__name__})",
            "name a folder of text files that are named like the variables and that this user may read",
        ) from None
    _require_known([path.name for path in found], _known())
    return folder


def _known() -> set[str]:
    return {f"{PREFIX}{name}".upper() for name in MigrationSettings.model_fields}


def _require_known(names: Iterable[str], known: set[str]) -> None:
    unknown = sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise _refused(f"unknown: {', '.join(unknown)}", "`migration-assets settings` lists the names")


def load_settings(*, env_file: Path | None = Path(".env"), **overrides: Any) -> MigrationSettings:
    """Read the settings from the environment and `env_file`.

    A secret may also be in a file that the variable with `_FILE` at its end names. Values that are set in neither may
    be in the folder that MIGRATION_SECRETS_FOLDER names, in files named like their variables.

    Args:
        env_file: The file of variables; None for none. A missing file is ignored.
        overrides: Values by the setting's name, which take precedence over all others.

    Raises:
        SettingsError: A variable is wrong or unknown. The error names each of them and never shows a value that may be
            secret.
    """
    present = {**_file_of_variables(env_file), **os.environ}
    _require_known(present, _known() | {f"{PREFIX}{name}{_FILE}".upper() for name in SECRETS} | {_SECRETS_FOLDER})
    values = {**_from_files(present), **overrides}
    folder = _secrets_folder(present)
    try:
        return MigrationSettings(_env_file=env_file, _secrets_dir=folder, **values)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        problems = "; ".join(
            f"{PREFIX}{'_'.join(str(part) for part in problem['loc'])}".upper() + f": {problem['msg']}"
            if problem["loc"]
            else problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise _refused(problems, "correct the variable in the environment or in .env") from None
