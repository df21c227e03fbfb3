"""What hangs on the legacy's table and is not carried, each kind with what to do about it."""

from collections.abc import Iterable, Sequence

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_features import BY_KIND, UNKNOWN, Fate, Feature
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.sessions import Connected
from migration_assets.preflight.table_features import Hanging, read_features
from migration_assets.preflight.wording import info, listed


def examine_not_carried(legacy: Connected, table: QualifiedName) -> list[Finding]:
    """One finding for each kind that exists, and one for all that do not."""
    hanging = read_features(legacy, table)
    kinds = {one.kind for one in hanging}
    absent = [kind for kind, feature in BY_KIND.items() if kind not in kinds and feature is not UNKNOWN]
    return [
        *judge_features(hanging, before_cutover=False),
        info("not_carried", Area.TABLE, f"no {', no '.join(absent)}"),
    ]


def judge_features(hanging: Sequence[Hanging], *, before_cutover: bool) -> list[Finding]:
    """A finding for each kind; for each thing where it wants to be accepted by its name."""
    by: dict[str, list[Hanging]] = {}
    for one in hanging:
        by.setdefault(one.kind, []).append(one)
    findings: list[Finding] = []
    for kind, things in by.items():
        feature = BY_KIND.get(kind, UNKNOWN)
        severity = feature.readiness if before_cutover else feature.preflight
        if severity is None:
            continue
        if severity is Severity.BLOCKING and feature.fate is Fate.ACCEPTED:
            findings += [_finding(feature, severity, [one], one.name) for one in things]
        else:
            findings.append(_finding(feature, severity, things))
    return findings


def _finding(feature: Feature, severity: Severity, things: Sequence[Hanging], subject: str = "") -> Finding:
    kind = things[0].kind
    evidence = f"{len(things)} of kind {kind!r} will not be carried: {listed(one.shown for one in things)}"
    remedy = feature.remedy + _statements(one.statement for one in things)
    made_of = "\n".join(one.shown for one in things)
    return Finding(feature.code, Area.TABLE, severity, evidence, remedy, subject, bool(subject), made_of)


def _statements(statements: Iterable[str | None]) -> str:
    wanted = [one for one in statements if one]
    return f". In the base: {' '.join(dict.fromkeys(wanted))}" if wanted else ""
