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
    """The migration that is planned.

    Args:
        as_of: "Now", aware: the quarter it lies in is the newest that rows are expected in.
        parallel_copies: Slices copied at once.
        wanted_copies: As many were asked for, where the limits of sessions leave no room for them; 0: as many.
        window_hours: Length of the maintenance window.
        target_gb_per_hour: Rate that the window asks for, 10^9 bytes an hour.
        quarter: What has to fit into the window; None for the quarter of `as_of`, or the biggest where that is empty.
        scan_seconds: Longest reading of the whole control column; only where no index helps does it take long.
        sample_seconds: Longest timed reading of rows.
        sample_bytes: Largest timed reading of rows.
        legacy_url_for_base: The legacy as the base's server reaches it; None where it is as we do.
        base_url_for_legacy: The base as the legacy's server reaches it.
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
    """The table under examination: what is planned for it and what the legacy's catalogue says."""

    spec: TableSpec
    calendar: FiscalCalendar
    plan: PreflightPlan
    description: TableDescription


_NAMES_SHOWN = 12


def info(code: str, area: Area, evidence: str) -> Finding:
    """Examined, and nothing to do."""
    return Finding(code, area, Severity.INFO, evidence)


def judge(
    code: str, area: Area, evidence: str, *, good: bool, remedy: str, severity: Severity = Severity.BLOCKING
) -> Finding:
    """The same evidence either way; remedy and severity only where it is not good."""
    return info(code, area, evidence) if good else Finding(code, area, severity, evidence, remedy)


def error_text(error: Exception) -> str:
    """What a server or this package said, on one line, without anything that holds values of rows."""
    return error.what if isinstance(error, MigrationError) else told(error)


def size(number: float) -> str:
    """Bytes for people, in powers of ten like the target rate."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:,.2f} {unit}"
    return f"{number:,.0f} bytes"


def milliseconds(seconds: float) -> str:
    """A timeout as PostgreSQL takes it; never its 0, which means no timeout at all."""
    return str(max(1, round(seconds * 1000)))


def listed(names: Iterable[str]) -> str:
    """Some names and how many more there are."""
    all_names = list(names)
    shown = ", ".join(all_names[:_NAMES_SHOWN])
    more = len(all_names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
