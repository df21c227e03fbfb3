"""Findings of preflight: severity, evidence and remedy, and which findings a person has accepted."""

import hashlib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters: `blocking` stops later steps, `warning` needs a decision, `info` is evidence."""

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
    FILES = "files"


@dataclass(frozen=True)
class Finding:
    """One result of preflight.

    Args:
        code: Stable name, e.g. `wal_level`; the same code is used when all is well (severity `info`).
        area: What was examined.
        severity: See `Severity`.
        evidence: What was measured or read, with figures.
        remedy: What to do about it; empty if there is nothing to do.
        subject: The name of the one object that the finding is about; empty if it is about all of them.
        acceptable: Whether a person may decide to go on in spite of it. Such a finding has a subject and is blocking.
        definition: For an acceptable finding the definition of its subject, so that an acceptance does not cover
            another object of the same name.
    """

    code: str
    area: Area
    severity: Severity
    evidence: str
    remedy: str = ""
    subject: str = ""
    acceptable: bool = False
    definition: str = ""

    def __post_init__(self) -> None:
        if self.severity is not Severity.INFO and not self.remedy:
            raise ValueError(f"finding {self.code} is a {self.severity} without a remedy")
        if self.acceptable and (not self.subject or self.severity is not Severity.BLOCKING):
            raise ValueError(f"finding {self.code} can only be acceptable if it is blocking and names its subject")
        if self.acceptable and not self.definition:
            raise ValueError(f"finding {self.code} can only be acceptable if it has the definition of its subject")

    @property
    def digest(self) -> str:
        """SHA-256 of the definition, which an acceptance keeps."""
        return hashlib.sha256(self.definition.encode()).hexdigest()


@dataclass(frozen=True)
class Acceptance:
    """A person's decision to go on in spite of one finding; `digest` is that of the subject's definition then."""

    code: str
    subject: str
    accepted_by: str
    reason: str
    accepted_at: datetime
    digest: str


def with_acceptances(findings: Iterable[Finding], acceptances: Iterable[Acceptance]) -> list[Finding]:
    """Turn accepted findings into warnings, and add to other acceptable findings how to accept them.

    An acceptance no longer holds when the subject's definition has changed.
    """
    accepted = {(one.code, one.subject): one for one in acceptances}
    judged: list[Finding] = []
    for finding in findings:
        if not finding.acceptable:
            judged.append(finding)
            continue
        decision = accepted.get((finding.code, finding.subject))
        if decision is None or decision.digest != finding.digest:
            command = f"migration-assets accept {finding.code} {shlex.quote(finding.subject)} --by NAME --reason TEXT"
            remedy = f"{finding.remedy.rstrip('.')}. Or, if a person takes responsibility for it as it is: {command}"
            evidence = finding.evidence
            if decision is not None:
                evidence += (
                    f". {decision.accepted_by} accepted {finding.subject} at"
                    f" {decision.accepted_at:%Y-%m-%d %H:%M %Z}; since then it was altered, or made anew"
                )
            judged.append(replace(finding, evidence=evidence, remedy=remedy))
            continue
        evidence = (
            f"{finding.evidence}. Accepted by {decision.accepted_by} at {decision.accepted_at:%Y-%m-%d %H:%M %Z}:"
            f" {decision.reason}"
        )
        judged.append(replace(finding, severity=Severity.WARNING, evidence=evidence, acceptable=False))
    return judged


def blocking(findings: "list[Finding] | tuple[Finding, ...]") -> list[Finding]:
    """The findings that stop later steps."""
    return [finding for finding in findings if finding.severity is Severity.BLOCKING]


def worst_first(findings: "list[Finding] | tuple[Finding, ...]") -> list[Finding]:
    """The findings ordered for reading: by severity, then area, then code."""
    return sorted(findings, key=lambda f: (f.severity.rank, list(Area).index(f.area), f.code))
