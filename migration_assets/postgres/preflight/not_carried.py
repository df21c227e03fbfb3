"""What hangs on the legacy's table and has no place in the base, each kind with what to do about it."""

from dataclasses import dataclass

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import TableDescription
from migration_assets.postgres.preflight.wording import info, listed


@dataclass(frozen=True)
class _Kind:
    code: str
    severity: Severity
    remedy: str


# Keys are the kinds that introspection.sql names.
_KINDS = {
    "incoming foreign key": _Kind(
        "incoming_foreign_key",
        Severity.WARNING,
        "other tables point at this one and will not see rows that live in the base alone: decide for each whether it"
        " moves too or loses the constraint before the cutover (ALTER TABLE … DROP CONSTRAINT …). In the base the key"
        " must contain the control column",
    ),
    "outgoing foreign key": _Kind(
        "outgoing_foreign_key",
        Severity.WARNING,
        "carry the tables that are pointed at to the base, and after the cutover ALTER TABLE … ADD FOREIGN KEY …; until"
        " then the legacy enforces it for every row that comes from there",
    ),
    "exclusion constraint": _Kind(
        "exclusion_constraint",
        Severity.WARNING,
        "the legacy enforces it until the cutover; after it only ALTER TABLE leaf ADD EXCLUDE … on each leaf (or, from"
        " PostgreSQL 17 on, a constraint that compares the control column for equality) enforces it, per week",
    ),
    "check constraint that was never validated": _Kind(
        "unvalidated_check",
        Severity.WARNING,
        "ALTER TABLE … VALIDATE CONSTRAINT … on the legacy carries it; rows that break it have to be mended first",
    ),
    "trigger": _Kind(
        "trigger",
        Severity.WARNING,
        "the legacy's triggers go on firing for its writers, and what they write into this table is carried. For the"
        " time after the cutover create them on the base's root, just before it; never earlier, or rows change twice",
    ),
    "rule": _Kind(
        "rule",
        Severity.WARNING,
        "rules redirect writes: find out what for, and give the application or a trigger on the base that task at the"
        " cutover",
    ),
    "row security policy": _Kind(
        "row_security_policy",
        Severity.WARNING,
        "before anybody but the owner reads the base: CREATE POLICY … on its root and ALTER TABLE … ENABLE ROW LEVEL"
        " SECURITY; until then grant nothing there",
    ),
    "extended statistics": _Kind(
        "extended_statistics", Severity.INFO, "CREATE STATISTICS … on the base's root after the first quarter is loaded"
    ),
    "privilege": _Kind(
        "privilege",
        Severity.WARNING,
        "repeat the GRANTs on the base's root before the cutover; roles have to exist there first",
    ),
    "child table": _Kind(
        "child_table",
        Severity.BLOCKING,
        "rows of children show in reads of the parent, but not in its publication: move them into the parent and ALTER"
        " TABLE child NO INHERIT parent",
    ),
    "parent table": _Kind(
        "parent_table",
        Severity.BLOCKING,
        "the table is somebody's child or partition: migrate the parent instead, or ALTER TABLE … NO INHERIT / DETACH"
        " PARTITION",
    ),
    "unlogged table": _Kind(
        "unlogged_table",
        Severity.BLOCKING,
        "ALTER TABLE … SET LOGGED: changes of an unlogged table are not in the WAL and cannot be published",
    ),
}


def examine_not_carried(description: TableDescription) -> list[Finding]:
    """One finding for each kind that exists, and one for all that do not."""
    findings: list[Finding] = []
    found: dict[str, list[str]] = {}
    for kind, name in description.not_carried:
        found.setdefault(kind, []).append(name)
    for kind, names in found.items():
        known = _KINDS.get(kind) or _Kind(
            kind.replace(" ", "_"), Severity.WARNING, "decide whether the base needs it, and make it there by hand"
        )
        evidence = f"{len(names)} of kind {kind!r} will not be carried: {listed(names)}"
        findings.append(Finding(known.code, Area.TABLE, known.severity, evidence, known.remedy))
    absent = [kind for kind in _KINDS if kind not in found]
    return [*findings, info("not_carried", Area.TABLE, f"the table has no {', no '.join(absent)}")]
