"""Examines sequences and identities: known on both sides, and with room for what the cutover will set them to."""

from psycopg import sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import Column
from migration_assets.domain.table_spec import parse_identifiers
from migration_assets.postgres.cutover.sequences import SequenceState, next_start, read_sequence
from migration_assets.postgres.preflight.wording import info, listed
from migration_assets.postgres.readiness.sides import Sides
from migration_assets.postgres.sessions import require_row
from migration_assets.postgres.sql_text import table_name

_CODE = "sequences"
_ROOM = 0.9


# Defaults of other tables that draw from the same sequence.
_SHARED = """
SELECT DISTINCT c.oid::regclass::text FROM pg_depend d
JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid JOIN pg_class c ON c.oid = a.adrelid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(%s) AND c.oid <> to_regclass(%s) ORDER BY 1
"""


def examine_sequences(sides: Sides) -> list[Finding]:
    """One finding for each column that draws from a sequence."""
    findings = [_examine(sides, column) for column in sides.of_legacy.columns if column.default_sequence]
    findings += [one for column in sides.of_legacy.columns if column.default_sequence for one in _shared(sides, column)]
    return findings or [info(_CODE, Area.TABLE, "no column draws from a sequence")]


def _shared(sides: Sides, column: Column) -> list[Finding]:
    rows = sides.legacy.execute(_SHARED, [column.default_sequence, str(sides.spec.table)]).fetchall()
    if not rows:
        return []
    evidence = (
        f"{column.default_sequence} fills {column.name}, and columns of {listed(str(row[0]) for row in rows)}: after"
        f" the cutover each database gives keys from its own, which begin only {sides.plan.sequence_margin} keys apart"
    )
    remedy = (
        "where keys must stay unique across these tables, give them ranges far apart: raise"
        " MIGRATION_CUTOVER_SEQUENCE_MARGIN beyond what the other tables will ever need"
    )
    return [Finding("shared_sequence", Area.TABLE, Severity.WARNING, evidence, remedy)]


def _examine(sides: Sides, column: Column) -> Finding:
    of_legacy = column.default_sequence or ""
    there = next((one for one in sides.of_base.columns if one.name == column.name), None)
    of_base = there.default_sequence if there else None
    if of_base is None:
        name = sql.Identifier(*parse_identifiers(of_legacy)).as_string()
        remedy = (
            f"in the base: CREATE SEQUENCE IF NOT EXISTS {name}; ALTER TABLE {sides.spec.table} ALTER COLUMN"
            f" {sql.Identifier(column.name).as_string()} SET DEFAULT nextval('{of_legacy}'::regclass);"
        )
        evidence = f"{column.name} draws from {of_legacy} in the legacy, and from no sequence in the base"
        return Finding(_CODE, Area.TABLE, Severity.BLOCKING, evidence, remedy)
    here, base = read_sequence(sides.legacy, of_legacy), read_sequence(sides.base, of_base)
    ends = [here.last]
    if sides.of_legacy.primary_key[:1] == (column.name,) and not here.cycles:
        # Keys that an application chose by itself; the key's index has them at its end.
        ends.append(_extreme(sides, column.name, here))
    farthest = max(ends) if here.increment > 0 else min(ends)
    target = next_start(here, base, farthest, sides.plan.sequence_margin)
    evidence = (
        f"{column.name}: {of_legacy} is at {here.last:,} in the legacy, the key ends at {farthest:,}; {of_base} is at"
        f" {base.last:,} in the base; the cutover sets it by SELECT setval('{of_base}', {target})"
    )
    if here.increment != base.increment:
        remedy = f"in the base: ALTER SEQUENCE {of_base} INCREMENT BY {here.increment};"
        what = f"{evidence}; it steps by {here.increment} in the legacy, by {base.increment} in the base"
        return Finding(_CODE, Area.TABLE, Severity.BLOCKING, what, remedy)
    if not base.cycles and not base.least <= target + base.increment <= base.most:
        remedy = (
            f"in the base: ALTER SEQUENCE {of_base} AS bigint MAXVALUE {2**63 - 1}; and widen the column if need be"
        )
        return Finding(_CODE, Area.TABLE, Severity.BLOCKING, f"{evidence}, beyond its end {base.most:,}", remedy)
    if here.increment > 0 and not base.cycles and target > base.most * _ROOM:
        remedy = f"plan for it: ALTER SEQUENCE {of_base} AS bigint; and the column's type with it"
        what = f"{evidence}; over {_ROOM:.0%} of its {base.most:,} are used up"
        return Finding(_CODE, Area.TABLE, Severity.WARNING, what, remedy)
    return info(_CODE, Area.TABLE, evidence)


def _extreme(sides: Sides, column: str, state: SequenceState) -> int:
    row = sides.legacy.execute(
        sql.SQL("SELECT {}({})::bigint FROM {}").format(
            sql.SQL("max" if state.increment > 0 else "min"), sql.Identifier(column), table_name(sides.spec.table)
        )
    ).fetchone()
    found = require_row(row, "the greatest key")[0]
    return state.last if found is None else int(found)
