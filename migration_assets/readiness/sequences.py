"""Examines sequences and identities: known on both sides, and with room for what the cutover will set them to."""

from psycopg import sql

from migration_assets.cutover.sequences import (
    Counterpart,
    SequenceState,
    counterparts,
    next_start,
    read_sequence,
)
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import Drawn
from migration_assets.domain.table_spec import parse_identifiers
from migration_assets.postgres.called_functions import bodies
from migration_assets.postgres.sessions import require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.preflight.wording import info, listed
from migration_assets.readiness.sides import Sides

_CODE = "sequences"
_ROOM = 0.9


# Defaults of other tables that draw from the same sequence.
_SHARED = """
SELECT DISTINCT c.oid::regclass::text FROM pg_depend d
JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid JOIN pg_class c ON c.oid = a.adrelid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(%s) AND c.oid <> to_regclass(%s) ORDER BY 1
"""


def examine_sequences(sides: Sides) -> list[Finding]:
    """One finding for each sequence that new rows draw from, in whatever way."""
    findings: list[Finding] = []
    for one in counterparts(sides.base, sides.of_legacy, sides.of_base):
        findings += [_examine(sides, one), *_shared(sides, one), *_by_trigger(one)]
    findings += [_unknown(sides, name) for name in sides.of_legacy.unknown_draws]
    return findings or [info(_CODE, Area.TABLE, "no column draws from a sequence")]


def _shared(sides: Sides, one: Counterpart) -> list[Finding]:
    rows = sides.legacy.execute(_SHARED, [one.source, str(sides.spec.table)]).fetchall()
    if not rows:
        return []
    evidence = (
        f"{one.source} fills {_filled(one)}, and columns of {listed(str(row[0]) for row in rows)}: after"
        f" the cutover each database gives keys from its own, which begin only {sides.plan.sequence_margin} keys apart"
    )
    remedy = (
        "where keys must stay unique across these tables, give them ranges far apart: raise"
        " MIGRATION_CUTOVER_SEQUENCE_MARGIN beyond what the other tables will ever need"
    )
    return [Finding("shared_sequence", Area.TABLE, Severity.WARNING, evidence, remedy)]


def _by_trigger(one: Counterpart) -> list[Finding]:
    if any(use.how is not Drawn.TRIGGER for use in one.uses):
        return []
    evidence = (
        f"{one.source} is drawn from by trigger function {one.uses[0].via}: the cutover sets it, and cannot try its"
        " next key as it does with a default's"
    )
    remedy = "see that the base has the trigger, and that the sequence is beyond every key that it fills"
    return [Finding("trigger_sequence", Area.TABLE, Severity.WARNING, evidence, remedy)]


def _unknown(sides: Sides, function: str) -> Finding:
    called = bodies("SELECT to_regprocedure(%s)::oid")
    row = sides.legacy.execute(f"SELECT {called}", [function]).fetchone()
    return Finding(
        "unknown_sequence",
        Area.TABLE,
        Severity.BLOCKING,
        f"function {function}, which runs for new rows, draws from a sequence that its text does not name",
        "find out which one, make it in the base, and set it there beyond what the legacy has given, at the cutover",
        subject=function,
        acceptable=True,
        definition=str(require_row(row, "a function")[0]),
    )


def _filled(one: Counterpart) -> str:
    return ", ".join(dict.fromkeys(use.column or f"what {use.via} fills" for use in one.uses))


def _missing(sides: Sides, one: Counterpart) -> Finding:
    name = sql.Identifier(*parse_identifiers(one.source)).as_string()
    made = next(sequence for sequence in sides.of_legacy.sequences if sequence.name == one.source)
    remedy = f"in the base: CREATE SEQUENCE IF NOT EXISTS {name} AS {made.type_name} {made.options};"
    for use in one.uses:
        if use.column is None:
            continue
        column = sql.Identifier(use.column).as_string()
        if use.how is Drawn.OWNED and parse_identifiers(one.source)[0] == sides.spec.table.schema:
            remedy += f" ALTER SEQUENCE {name} OWNED BY {sides.spec.table}.{column};"
        if use.how in {Drawn.DEFAULT, Drawn.IDENTITY}:
            default = sides.of_legacy.column(use.column).default or f"nextval('{one.source}'::regclass)"
            remedy += f" ALTER TABLE {sides.spec.table} ALTER COLUMN {column} SET DEFAULT {default};"
    evidence = f"{_filled(one)} draws from {one.source} in the legacy, and from no sequence in the base"
    return Finding(_CODE, Area.TABLE, Severity.BLOCKING, evidence, remedy)


def _examine(sides: Sides, one: Counterpart) -> Finding:
    of_legacy, of_base = one.source, one.target
    if of_base is None:
        return _missing(sides, one)
    here, base = read_sequence(sides.legacy, of_legacy), read_sequence(sides.base, of_base)
    ends = [here.last]
    if not here.cycles:
        # Keys that an application chose by itself; the key's index has them at its end.
        ends += [_extreme(sides, column, here) for column in one.ends]
    farthest = max(ends) if here.increment > 0 else min(ends)
    target = next_start(here, base, farthest, sides.plan.sequence_margin)
    evidence = (
        f"{_filled(one)}: {of_legacy} is at {here.last:,} in the legacy, the key ends at {farthest:,}; {of_base} is at"
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
