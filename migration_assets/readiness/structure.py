"""Compares what hangs on the table: indexes, constraints, defaults, extensions, statistics, sequences."""

from collections.abc import Iterator

from psycopg import sql

from migration_assets.cutover.sequences import Counterpart, SequenceState, counterparts, next_start, read_sequence
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import Drawn, Index, column_differences, structure_differences
from migration_assets.domain.table_spec import parse_identifiers, quote_identifier
from migration_assets.postgres.foreign_keys import count_orphans, last_orphans, read_foreign_keys
from migration_assets.postgres.sessions import require_row
from migration_assets.postgres.sql_text import table_name
from migration_assets.postgres.untrusted import bodies
from migration_assets.preflight.plan import info, listed
from migration_assets.preflight.table_features import BY_KIND, Fate, Hanging, judge_features, read_features
from migration_assets.readiness.rules import Sides


def examine_structure(sides: Sides) -> list[Finding]:
    """What the legacy has and the base lacks, each with the statement that makes it."""
    return [
        *_indexes(sides),
        *_uniqueness(sides),
        *_columns(sides),
        *_checks(sides),
        *_not_carried(sides),
        *_orphans(sides),
    ]


def _indexes(sides: Sides) -> Iterator[Finding]:
    wanted = [index for index in sides.of_legacy.indexes if index.valid]
    there = {index.tail: index for index in sides.of_base.indexes}
    missing = [index for index in wanted if index.tail not in there]
    broken = [there[index.tail] for index in wanted if index.tail in there and not there[index.tail].valid]
    for index in missing:
        evidence = f"index {index.name} of the legacy ({index.tail}) has no counterpart in the base"
        yield Finding("index_missing", Area.TABLE, Severity.BLOCKING, evidence, _create(sides, index))
    for index in broken:
        name = f"{quote_identifier(sides.spec.table.schema)}.{quote_identifier(index.name)}"
        evidence = f"index {index.name} of the base's root is not valid: some partition has none to match"
        remedy = (
            f"find the partitions without it (\\d+ {name}), CREATE INDEX CONCURRENTLY on each, then ALTER INDEX {name}"
            " ATTACH PARTITION …; or, where a long lock is all right, DROP INDEX and " + _create(sides, index)
        )
        yield Finding("index_invalid", Area.TABLE, Severity.BLOCKING, evidence, remedy)
    if not missing and not broken:
        yield info("indexes", Area.TABLE, f"all {len(wanted)} valid secondary indexes of the legacy are in the base")


def _create(sides: Sides, index: Index) -> str:
    unique = "UNIQUE " if index.is_unique_with(sides.spec.control_column) else ""
    return (
        f"in the base: CREATE {unique}INDEX {quote_identifier(index.name)} ON {sides.spec.table} {index.tail};"
        " -- holds writes while it is built: per leaf with CONCURRENTLY, then ATTACH, where that is too long"
    )


def _uniqueness(sides: Sides) -> Iterator[Finding]:
    control = sides.spec.control_column
    lost = [
        index for index in sides.of_legacy.indexes if index.valid and index.unique and control not in index.key_columns
    ]
    for index in lost:
        evidence = f"{index.name} is unique in the legacy; the base, partitioned by {control}, cannot enforce it"
        remedy = (
            f"let the application that writes keep ({', '.join(index.key_columns)}) unique (a table of its own with"
            " that key and a trigger enforces it), or decide that it is not needed any more"
        )
        yield Finding("unique_not_carried", Area.TABLE, Severity.WARNING, evidence, remedy)
    keys = sides.of_legacy.primary_key, sides.of_base.primary_key
    if keys[0] != keys[1]:
        yield info(
            "primary_key",
            Area.TABLE,
            f"the key is ({', '.join(keys[0])}) in the legacy, ({', '.join(keys[1])}) in the base: after the cutover"
            f" only a sequence or the application keeps ({', '.join(keys[0])}) alone unique",
        )
    yield from _upserts(sides)


def _upserts(sides: Sides) -> Iterator[Finding]:
    """Unique keys that applications may use for upserts, and that the base does not have."""
    there = {frozenset(sides.of_base.primary_key)}
    there |= {frozenset(index.key_columns) for index in sides.of_base.indexes if index.unique and index.valid}
    of_legacy = [sides.of_legacy.primary_key] + [
        index.key_columns for index in sides.of_legacy.indexes if index.unique and index.valid
    ]
    for key in dict.fromkeys(key for key in of_legacy if key and frozenset(key) not in there):
        names = ", ".join(quote_identifier(name) for name in key)
        wider = ", ".join(quote_identifier(name) for name in (*key, sides.spec.control_column))
        evidence = (
            f"the base has no unique key ({names}): there INSERT … ON CONFLICT ({names}) fails (no unique or exclusion"
            " constraint matches it), as does ON CONSTRAINT with that key's name; and a MERGE by it, or an INSERT after"
            " a SELECT, may insert a key twice"
        )
        remedy = (
            f"look for such statements in the applications and in functions (the finding function_whose_text_names_it):"
            f" they have to name ({wider}) in the base, where its unique key has these columns, and find no row"
            f" whose {quote_identifier(sides.spec.control_column)} is another one"
        )
        yield Finding("upsert_targets", Area.TABLE, Severity.WARNING, evidence, remedy, names)


def _columns(sides: Sides) -> Iterator[Finding]:
    inside = structure_differences(sides.of_legacy, sides.of_base)
    for one in inside:
        yield Finding("types_differ", Area.TABLE, Severity.BLOCKING, one.what, one.remedy)
    for what in column_differences(sides.of_legacy, sides.of_base):
        if what in {one.what for one in inside}:
            continue
        remedy = "make the same change on the base; the stream goes on by itself"
        yield Finding("columns_differ", Area.TABLE, Severity.BLOCKING, what, remedy)
    of_base = {column.name: column for column in sides.of_base.columns}
    table = sides.spec.table
    same = True
    for column in sides.of_legacy.columns:
        other, name = of_base.get(column.name), quote_identifier(column.name)
        if other is None:
            continue
        if column.not_null and not other.not_null:
            same = False
            remedy = f"in the base: ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL;"
            evidence = f"{column.name} is NOT NULL in the legacy alone"
            yield Finding("not_null_missing", Area.TABLE, Severity.BLOCKING, evidence, remedy)
        drawn = column.identity or column.default_sequence
        if not drawn and not column.is_generated and column.default != other.default:
            same = False
            clause = f"SET DEFAULT {column.default}" if column.default is not None else "DROP DEFAULT"
            remedy = f"in the base: ALTER TABLE {table} ALTER COLUMN {name} {clause};"
            evidence = f"{column.name} has default {column.default} in the legacy, {other.default} in the base"
            yield Finding("default_differs", Area.TABLE, Severity.BLOCKING, evidence, remedy)
    if same:
        yield info("columns", Area.TABLE, f"{len(of_base)} columns: NOT NULL and defaults are the same")


def _checks(sides: Sides) -> Iterator[Finding]:
    there = {check.definition for check in sides.of_base.checks}
    missing = [check for check in sides.of_legacy.checks if check.definition not in there]
    for check in missing:
        add = f"ALTER TABLE {sides.spec.table} ADD CONSTRAINT {quote_identifier(check.name)} {check.definition}"
        evidence = f"constraint {check.name} ({check.definition}) is in the legacy alone"
        yield Finding("check_missing", Area.TABLE, Severity.BLOCKING, evidence, f"in the base: {add};")
    if not missing:
        yield info("checks", Area.TABLE, f"all {len(sides.of_legacy.checks)} check constraints are in the base")


def _not_carried(sides: Sides) -> Iterator[Finding]:
    """Preflight's findings about what hangs on the table, without what the base has by that name now."""
    there = {(one.kind, one.name) for one in read_features(sides.base, sides.spec.table)}
    mine = [one for one in read_features(sides.legacy, sides.spec.table) if _is_judged_here(one)]
    # An accepted feature is judged whatever the base has: it matters for the rollback.
    made = [one for one in mine if (one.kind, one.name) in there and not _is_to_be_accepted(one)]
    yield from judge_features([one for one in mine if one not in made], before_cutover=True)
    if made:
        names = listed(f"{one.kind} {one.shown}" for one in made)
        yield info("counterparts", Area.TABLE, f"the base has by name: {names}; check yourself that they do the same")
    if not mine:
        yield info("counterparts", Area.TABLE, "nothing hangs on the legacy's table that the base would need")


def _orphans(sides: Sides) -> Iterator[Finding]:
    """Count again the rows that the last rollback left without a referenced row: they may have been repaired by now."""
    left = last_orphans(sides.base, sides.spec.relation)
    keys = [key for key in read_foreign_keys(sides.legacy, sides.spec.table) if key.label in left]
    for one in count_orphans(sides.legacy, keys, seconds=sides.plan.scan_seconds):
        if one.rows != 0:
            evidence = (
                f"since the last rollback rows of the legacy point nowhere, although the key is marked as valid: {one}"
            )
            remedy = (
                "in the legacy: put back, delete or change the rows that point nowhere, as the applications need it"
            )
            yield Finding("rows_pointing_nowhere", Area.DATA, Severity.WARNING, evidence, remedy, one.key)


def _is_to_be_accepted(one: Hanging) -> bool:
    return one.kind in BY_KIND and BY_KIND[one.kind].fate is Fate.ACCEPTED


def _is_judged_here(one: Hanging) -> bool:
    """Whether readiness judges it. Types and parents blocked the migration itself; rights are compared elsewhere."""
    return one.kind not in BY_KIND or BY_KIND[one.kind].readiness is not None


# The extensions that the table, its defaults, constraints, indexes and triggers depend on, also through other objects
# (a domain over a type, an operator class of an access method).
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
    """Extensions that the base lacks block; another version is a warning."""
    needed = sides.legacy.execute(_NEEDED, {"table": str(sides.spec.table)}).fetchall()
    there = dict(sides.base.execute("SELECT extname::text, extversion FROM pg_extension").fetchall())
    findings: list[Finding] = []
    for name, version, schema in needed:
        quoted = quote_identifier(name)
        if name not in there:
            remedy = f"in the base: CREATE EXTENSION {quoted} SCHEMA {quote_identifier(schema)};"
            evidence = f"the legacy's table depends on extension {name} {version}, and the base does not have it"
            findings.append(Finding("extension_missing", Area.BASE, Severity.BLOCKING, evidence, remedy))
        elif there[name] != version:
            remedy = f"read {name}'s notes between the two versions; ALTER EXTENSION {quoted} UPDATE; on the older side"
            evidence = f"extension {name} is {version} in the legacy, {there[name]} in the base"
            findings.append(Finding("extension_version", Area.BASE, Severity.WARNING, evidence, remedy))
    if not findings:
        names = listed(row[0] for row in needed) or "no extension"
        findings.append(
            info("extensions", Area.BASE, f"the legacy's table depends on {names}; the base has what it needs")
        )
    return findings


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
    """Whether the root and all filled leaves were analyzed; stale if a fifth of the rows changed since then."""
    may = sides.base.execute("SELECT has_table_privilege('pg_statistic', 'SELECT')").fetchone()
    query = _QUERY if may and may[0] else _NO_STATISTICS_TABLE
    rows = sides.base.execute(query.encode(), [str(sides.spec.table)]).fetchall()
    table = sides.spec.table
    findings: list[Finding] = []
    leaves = [row for row in rows if row[2]]
    filled = [row for row in leaves if row[6] > 0]
    root = next((row for row in rows if row[1] == 0), None)
    if filled and root is not None and (root[3] < 0 or not root[7]):
        evidence = f"the root {table} was never analyzed: autovacuum never does that, and plans over weeks are guesses"
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


_CODE = "sequences"
_ROOM = 0.9


# Other tables whose defaults draw from the same sequence.
_SHARED = """
SELECT DISTINCT c.oid::regclass::text FROM pg_depend d
JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid JOIN pg_class c ON c.oid = a.adrelid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(%s) AND c.oid <> to_regclass(%s) ORDER BY 1
"""


def examine_sequences(sides: Sides) -> list[Finding]:
    """A finding for each sequence that new rows draw from, in whatever way."""
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
        f" the cutover each database gives keys of its own, which begin only {sides.plan.sequence_margin} keys apart"
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
        f"{one.source} is drawn from by trigger function {one.uses[0].via}: the cutover sets it, but cannot try its"
        " next key as it does for a default"
    )
    remedy = "check that the base has the trigger, and that the sequence is beyond every key that it fills"
    return [Finding("trigger_sequence", Area.TABLE, Severity.WARNING, evidence, remedy)]


def _unknown(sides: Sides, function: str) -> Finding:
    called = bodies("SELECT to_regprocedure(%s)::oid")
    row = sides.legacy.execute(f"SELECT {called}", [function]).fetchone()
    return Finding(
        "unknown_sequence",
        Area.TABLE,
        Severity.BLOCKING,
        f"function {function}, which runs for new rows, draws from a sequence that its text does not name",
        "find out which one, make it in the base, and at the cutover set it there beyond what the legacy has given",
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
        # An application may have chosen keys itself; the last one is at the end of the key's index.
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
