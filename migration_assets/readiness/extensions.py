"""Examines whether the base has the extensions that the legacy's table rests on, in versions that fit."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.preflight.wording import info, listed
from migration_assets.readiness.sides import Sides

# Whatever the table, its defaults, constraints, indexes and triggers depend on, and what that depends on in turn
# (a domain over a type, an operator class of an access method), as far as it is an extension's.
_NEEDED = """
WITH RECURSIVE parts(classid, objid) AS (
    SELECT 'pg_class'::regclass::oid, to_regclass(%(table)s)::oid
    UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = to_regclass(%(table)s)
    UNION SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = to_regclass(%(table)s)
    UNION SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = to_regclass(%(table)s)
    UNION SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s)
), needed(classid, objid) AS (
    SELECT classid, objid FROM parts
    UNION
    SELECT d.refclassid, d.refobjid FROM needed n JOIN pg_depend d ON d.classid = n.classid AND d.objid = n.objid
    WHERE d.deptype IN ('n', 'a', 'i') AND d.refclassid IN ('pg_type'::regclass, 'pg_proc'::regclass,
          'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_operator'::regclass, 'pg_am'::regclass,
          'pg_collation'::regclass, 'pg_class'::regclass, 'pg_language'::regclass)
)
SELECT DISTINCT e.extname::text, e.extversion, ns.nspname::text
FROM needed n JOIN pg_depend d ON d.classid = n.classid AND d.objid = n.objid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
JOIN pg_namespace ns ON ns.oid = e.extnamespace
ORDER BY 1
"""


def examine_extensions(sides: Sides) -> list[Finding]:
    """Missing ones block; another version is told."""
    needed = sides.legacy.execute(_NEEDED, {"table": str(sides.spec.table)}).fetchall()
    there = dict(sides.base.execute("SELECT extname::text, extversion FROM pg_extension").fetchall())
    findings: list[Finding] = []
    for name, version, schema in needed:
        quoted = quote_identifier(name)
        if name not in there:
            remedy = f"in the base: CREATE EXTENSION {quoted} SCHEMA {quote_identifier(schema)};"
            evidence = f"the legacy's table rests on extension {name} {version}, and the base does not have it"
            findings.append(Finding("extension_missing", Area.BASE, Severity.BLOCKING, evidence, remedy))
        elif there[name] != version:
            remedy = f"see {name}'s notes between the two; ALTER EXTENSION {quoted} UPDATE; on the older side"
            evidence = f"extension {name} is {version} in the legacy, {there[name]} in the base"
            findings.append(Finding("extension_version", Area.BASE, Severity.WARNING, evidence, remedy))
    if not findings:
        names = listed(row[0] for row in needed) or "no extension"
        findings.append(
            info("extensions", Area.BASE, f"the legacy's table rests on {names}; the base has what it needs")
        )
    return findings
