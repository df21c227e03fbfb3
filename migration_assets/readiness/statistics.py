"""Examines whether the base's planner knows the table: leaves and, which nobody but a person analyzes, the root."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.preflight.wording import info, listed
from migration_assets.readiness.sides import Sides

_STALE = 0.2
_FEW_ROWS = 1_000

# reltuples is -1 until the first ANALYZE or VACUUM; unlike the counters it survives a crash.
_QUERY = """
SELECT t.relid::regclass::text, t.level, t.isleaf, c.reltuples, coalesce(s.n_mod_since_analyze, 0),
       c.relpages, pg_relation_size(c.oid),
       EXISTS (SELECT FROM pg_statistic p WHERE p.starelid = c.oid AND p.stainherit)
FROM pg_partition_tree(to_regclass(%s)) t JOIN pg_class c ON c.oid = t.relid
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
ORDER BY t.level, 1
"""
_NO_STATISTICS_TABLE = _QUERY.replace(
    "EXISTS (SELECT FROM pg_statistic p WHERE p.starelid = c.oid AND p.stainherit)", "c.reltuples >= 0"
)


def examine_statistics(sides: Sides) -> list[Finding]:
    """Stale where a fifth was changed since ANALYZE last looked."""
    may = sides.base.execute("SELECT has_table_privilege('pg_statistic', 'SELECT')").fetchone()
    query = _QUERY if may and may[0] else _NO_STATISTICS_TABLE
    rows = sides.base.execute(query.encode(), [str(sides.spec.table)]).fetchall()
    table = sides.spec.table
    findings: list[Finding] = []
    leaves = [row for row in rows if row[2]]
    filled = [row for row in leaves if row[6] > 0]
    root = next((row for row in rows if row[1] == 0), None)
    if filled and root is not None and (root[3] < 0 or not root[7]):
        evidence = f"the root {table} was never analyzed: autovacuum never does, and plans over weeks are guesses"
        findings.append(
            Finding("root_analyzed", Area.BASE, Severity.BLOCKING, evidence, f"in the base: ANALYZE {table};")
        )
    never = [row[0] for row in filled if row[3] < 0]
    if never:
        evidence = f"{len(never)} of {len(filled)} filled leaves were never analyzed: {listed(never)}"
        remedy = "in the base: " + " ".join(f"ANALYZE {name};" for name in never)
        findings.append(Finding("leaves_analyzed", Area.BASE, Severity.BLOCKING, evidence, remedy))
    stale = [row[0] for row in filled if row[3] >= 0 and row[4] > max(_FEW_ROWS, row[3] * _STALE)]
    if stale:
        evidence = f"over {_STALE:.0%} of {len(stale)} leaves changed since they were analyzed: {listed(stale)}"
        remedy = "in the base: " + " ".join(f"ANALYZE {name};" for name in stale)
        findings.append(Finding("leaves_stale", Area.BASE, Severity.WARNING, evidence, remedy))
    if not findings:
        findings.append(info("statistics", Area.BASE, f"the root and all {len(filled)} filled leaves are analyzed"))
    return findings
