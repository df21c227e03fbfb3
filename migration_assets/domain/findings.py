"""What an examination found: severity, evidence, remedy."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters: `blocking` stops all that follows, `warning` wants a decision, `info` is evidence."""

    BLOCKING = "blocking"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class Area(StrEnum):
    """What was examined."""

    LEGACY = "legacy"
    BASE = "base"
    TABLE = "table"
    DATA = "data"
    WINDOW = "window"


@dataclass(frozen=True)
class Finding:
    """One result of preflight.

    Args:
        code: Stable name, e.g. `wal_level`; the same code is used when all is well (severity `info`).
        area: What was examined.
        severity: See `Severity`.
        evidence: What was measured or read, with figures.
        remedy: What to do about it; empty when there is nothing to do.
    """

    code: str
    area: Area
    severity: Severity
    evidence: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.severity is not Severity.INFO and not self.remedy:
            raise ValueError(f"finding {self.code} is a {self.severity} without a remedy")


def blocking(findings: "list[Finding] | tuple[Finding, ...]") -> list[Finding]:
    """Those that stop all that follows."""
    return [finding for finding in findings if finding.severity is Severity.BLOCKING]


def worst_first(findings: "list[Finding] | tuple[Finding, ...]") -> list[Finding]:
    """Ordered for reading: severity, then area, then code."""
    return sorted(findings, key=lambda f: (f.severity.rank, list(Area).index(f.area), f.code))
