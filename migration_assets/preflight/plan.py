"""What preflight is asked to judge against, what its checks share, and how findings and their figures are worded."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.server_messages import told


@dataclass(frozen=True)
class PreflightPlan:
    """The planned migration.

    Attributes:
        as_of: "Now", with a time zone: no rows are expected after the quarter it lies in.
        parallel_copies: Number of slices that are copied at once.
        wanted_copies: The number that was asked for, where session limits leave no room for it; 0 for the same.
        window_hours: Length of the maintenance window, in hours.
        target_gb_per_hour: The rate that the window requires, in 10^9 bytes an hour.
        quarter: The quarter that has to fit into the window; None for that of `as_of`, or the biggest if that is empty.
        scan_seconds: Time limit for reading the control column; only reached where no index helps.
        sample_seconds: Time limit for the timed reading of rows.
        sample_bytes: Most bytes that the timed reading reads.
        legacy_url_for_base: The legacy as the base's server reaches it; None for the URL that we use.
        base_url_for_legacy: The base as the legacy's server reaches it; None for the URL that we use.
    """

    as_of: datetime
    parallel_copies: int = 2
    wanted_copies: int = 0
    window_hours: float = 3.0
    target_gb_per_hour: float = 72.22
    quarter: FiscalQuarter | None = None
    scan_seconds: float = 600.0
    sample_seconds: float = 2.0
    sample_bytes: int = 64 * 1024 * 1024
    legacy_url_for_base: str | None = field(default=None, repr=False)
    base_url_for_legacy: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Subject:
    """The examined table: its plan, and its description from the legacy's catalogue."""

    spec: TableSpec
    calendar: FiscalCalendar
    plan: PreflightPlan
    description: TableDescription


_NAMES_SHOWN = 12


def info(code: str, area: Area, evidence: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(code, area, Severity.INFO, evidence)


def judge(
    code: str, area: Area, evidence: str, *, good: bool, remedy: str, severity: Severity = Severity.BLOCKING
) -> Finding:
    """Return an info finding where `good`, else one of `severity` with the remedy; the evidence is the same."""
    return info(code, area, evidence) if good else Finding(code, area, severity, evidence, remedy)


def error_text(error: Exception) -> str:
    """Return the message of a server or of this package on one line, without values of rows."""
    return error.what if isinstance(error, MigrationError) else told(error)


def size(number: float) -> str:
    """Return bytes for people, in powers of ten like the target rate."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:,.2f} {unit}"
    return f"{number:,.0f} bytes"


def milliseconds(seconds: float) -> str:
    """Return a timeout as PostgreSQL takes it; never 0, which would mean no timeout."""
    return str(max(1, round(seconds * 1000)))


def listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    all_names = list(names)
    shown = ", ".join(all_names[:_NAMES_SHOWN])
    more = len(all_names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
