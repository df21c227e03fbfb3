"""Builds findings and their figures, so that every check reads and judges alike."""

from collections.abc import Iterable

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.server_messages import told

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
