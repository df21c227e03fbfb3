"""The evidence of a sign-off: its contents, its hash, and whether the sign-off is still valid. Pure: no clock.

The evidence is plain JSON without floats. Its canonical text (sorted keys, no blanks, UTF-8) is hashed, so that a
database or tool that formats the same values differently still gets the same SHA-256.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from typing import Any, cast

from migration_assets.domain.fingerprint import EMPTY, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter
from migration_assets.domain.sign_off import (
    Approval,
    CutFacts,
    QuarterFacts,
    ReconciliationFacts,
    SignOffRefusedError,
    StreamFacts,
    WeekFacts,
    missing,
)
from migration_assets.domain.states import SliceState, instant_text

FORMAT = "migration_assets sign-off, version 1"
# Later states build on a sign-off and do not end it.
_SIGNED = frozenset({SliceState.SIGNED_OFF, SliceState.ARCHIVED, SliceState.RETIRED})


@dataclass(frozen=True)
class SignedOff:
    """One sign-off as the ledger keeps it; its columns repeat values of the evidence."""

    id: int
    relation: str
    quarter: FiscalQuarter
    approved_by: str
    note: str
    evidence: dict[str, Any]
    sha256: str
    run_id: str | None
    signed_at: datetime


def sign(facts: QuarterFacts, approval: Approval) -> tuple[dict[str, Any], str]:
    """Make the evidence and its SHA-256.

    Raises:
        SignOffRefusedError: Something is missing; the error lists everything that is.
    """
    lacking = missing(facts, approval)
    if lacking:
        raise SignOffRefusedError(lacking, where=facts.quarter.key)
    evidence = _evidence(facts, approval)
    return evidence, digest(evidence)


def canonical(evidence: object) -> str:
    """The canonical text of these values.

    Raises:
        ValueError: A value has no canonical text: a float, or anything that is not JSON.
    """
    _require_plain(evidence)
    return json.dumps(evidence, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _require_plain(value: object) -> None:
    if isinstance(value, dict):
        for key, inner in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise ValueError(f"{key!r} is not a name")  # noqa: TRY004 - one kind of error for the caller
            _require_plain(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            _require_plain(inner)
    elif value is not None and type(value) not in {str, int, bool}:
        raise ValueError(f"{value!r} has no single text")


def digest(evidence: object) -> str:
    """SHA-256 over the canonical text in UTF-8, 64 hexadecimal digits; ValueError as `canonical`."""
    return hashlib.sha256(canonical(evidence).encode()).hexdigest()


def verify(evidence: object, sha256: str) -> bool:
    """Whether this is exactly the evidence that was signed."""
    try:
        return digest(evidence) == sha256
    except ValueError:
        return False


def why_void(signed: SignedOff, weeks: Sequence[WeekFacts]) -> list[str]:
    """Every reason why the sign-off is no longer valid; empty while it is. `weeks` are the present facts."""
    return [*why_edited(signed), *_overtaken(signed, weeks)]


def why_edited(signed: SignedOff) -> Iterator[str]:
    """Yield every sign that the ledger's contents are not what was signed."""
    if not verify(signed.evidence, signed.sha256):
        yield "the evidence in the ledger is not what was signed: its SHA-256 differs"
    columns = {
        "relation": signed.relation,
        "quarter": signed.quarter.key,
        "approved_by": signed.approved_by,
        "note": signed.note,
        "signed_at": moment_text(signed.signed_at),
    }
    for name, said in columns.items():
        if signed.evidence.get(name) != said:
            yield f"{name} is {said!r} in the ledger and {signed.evidence.get(name)!r} in the evidence"


def _overtaken(signed: SignedOff, weeks: Sequence[WeekFacts]) -> Iterator[str]:
    known = {facts.week: facts for facts in weeks}
    for week in FiscalCalendar.weeks_of(signed.quarter):
        facts = known.get(week)
        if facts is None:
            yield f"{week.key}: the ledger no longer has this week"
            continue
        changed_at = facts.validation.changed_at
        changed = changed_at is not None and changed_at > signed.signed_at
        when = f", changed at {instant_text(changed_at)}" if changed and changed_at else ""
        if facts.state not in _SIGNED:
            yield f"{week.key}: is {facts.state} again{when}"
        elif changed and facts.state is SliceState.SIGNED_OFF:
            yield f"{week.key}: still {facts.state}{when}, after the sign-off"


def _evidence(facts: QuarterFacts, approval: Approval) -> dict[str, Any]:
    weeks = sorted(facts.weeks, key=lambda week: week.week)
    return {
        "format": FORMAT,
        "relation": facts.relation,
        "quarter": facts.quarter.key,
        "lower_bound": weeks[0].lower_bound,
        "upper_bound": weeks[-1].upper_bound,
        "legacy": _fingerprint(reduce(add, (week.legacy or EMPTY for week in weeks))),
        "base": _fingerprint(reduce(add, (week.base or EMPTY for week in weeks))),
        "weeks": [_week(week) for week in weeks],
        "reconciliation": _reconciliation(facts.reconciliation),
        "stream": _stream(facts.stream),
        "cuts": [_cut(cut) for cut in sorted(facts.cuts, key=lambda cut: cut.marker)],
        "versions": {
            "migration_assets": facts.versions.package,
            "postgresql_legacy": facts.versions.legacy,
            "postgresql_base": facts.versions.base,
            "fingerprint": facts.versions.fingerprint,
        },
        "proofs_not_older_than_us": _microseconds(approval.max_age),
        "approved_by": approval.approved_by,
        "note": approval.note,
        "signed_at": moment_text(approval.at),
    }


def _week(facts: WeekFacts) -> dict[str, Any]:
    return {
        "week": facts.week.key,
        "leaf": facts.leaf,
        "lower_bound": facts.lower_bound,
        "upper_bound": facts.upper_bound,
        "state": facts.state.value,
        "changed_at": moment_text(facts.validation.changed_at),
        "validated_at": moment_text(facts.validation.at),
        "marker": facts.marker,
        "lsn": facts.lsn,
        "fingerprint": facts.method,
        "legacy": _fingerprint(facts.legacy),
        "base": _fingerprint(facts.base),
        "stream_changes_since": facts.validation.stream_changes,
        "definitions": facts.definitions.as_json() if facts.definitions else None,
    }


def _reconciliation(facts: ReconciliationFacts | None) -> dict[str, Any] | None:
    return facts and {
        "marker": facts.marker,
        "lsn": facts.lsn,
        "equal": facts.equal,
        "duplicate_keys": facts.duplicate_keys,
        "cut_at": moment_text(facts.cut_at),
        "reconciled_at": moment_text(facts.at),
    }


def _stream(facts: StreamFacts | None) -> dict[str, Any] | None:
    return facts and {
        "publication": facts.publication,
        "slot": facts.slot,
        "subscription": facts.subscription,
        "exact_since_marker": facts.exact_since_marker,
        "exact_since_lsn": facts.exact_since_lsn,
        "exact_since": moment_text(facts.exact_since),
    }


def _cut(facts: CutFacts) -> dict[str, Any]:
    return {
        "marker": facts.marker,
        "lsn": facts.lsn,
        "taken_at": moment_text(facts.at),
        "tries": facts.tries,
        "writers_held_us": _thousandths(facts.writers_held_ms),
        "longest_try_us": _thousandths(facts.longest_try_ms),
        "apply_held_us": _thousandths(facts.apply_held_ms),
    }


def _fingerprint(fingerprint: Fingerprint | None) -> dict[str, Any] | None:
    # Sums are text: they exceed 2**53, above which many JSON readers round.
    return fingerprint and {
        "rows": fingerprint.rows,
        "sum_a": str(fingerprint.sum_a),
        "sum_b": str(fingerprint.sum_b),
    }


def moment_text(moment: datetime | None) -> str | None:
    """The canonical text of a time: UTC with microseconds; None for None."""
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _thousandths(value: float | None) -> int | None:
    return None if value is None else round(value * 1000)


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
