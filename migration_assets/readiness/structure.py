"""Compares what hangs on the table: indexes, constraints, defaults, and all that preflight said is not carried."""

from collections.abc import Iterator

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import Index, column_differences, structure_differences
from migration_assets.domain.table_features import BY_KIND, Fate
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.foreign_keys import count_orphans, last_orphans, read_foreign_keys
from migration_assets.preflight.not_carried import judge_features
from migration_assets.preflight.table_features import Hanging, read_features
from migration_assets.preflight.wording import info, listed
from migration_assets.readiness.sides import Sides


def examine_structure(sides: Sides) -> list[Finding]:
    """What the legacy has and the base has not, each with what makes it."""
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
            f"let whoever writes keep ({', '.join(index.key_columns)}) unique (a table of its own with that key and a"
            " trigger enforces it), or decide that it is not needed any more"
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
    """Keys by which applications may insert or update, and which the base has no more."""
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
            " constraint matches it), as does ON CONSTRAINT with that key's name, and a MERGE by it, or an INSERT after"
            " a look, may insert twice"
        )
        remedy = (
            f"look for such statements in the applications and in functions (the finding function_whose_text_names_it):"
            f" they name ({wider}) in the base, where its unique key has that, and find no row whose"
            f" {quote_identifier(sides.spec.control_column)} is another one"
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
    """By preflight's words; what the base has by that name by now is left out."""
    there = {(one.kind, one.name) for one in read_features(sides.base, sides.spec.table)}
    mine = [one for one in read_features(sides.legacy, sides.spec.table) if _is_judged_here(one)]
    # What is to be accepted is so whatever the base has: it is about the way back.
    made = [one for one in mine if (one.kind, one.name) in there and not _is_to_be_accepted(one)]
    yield from judge_features([one for one in mine if one not in made], before_cutover=True)
    if made:
        names = listed(f"{one.kind} {one.shown}" for one in made)
        yield info(
            "counterparts", Area.TABLE, f"by name the base has: {names}; that they do the same is for you to see"
        )
    if not mine:
        yield info("counterparts", Area.TABLE, "nothing hangs on the legacy's table that the base would need")


def _orphans(sides: Sides) -> Iterator[Finding]:
    """What the last rollback left, counted again: somebody may have mended it by now."""
    left = last_orphans(sides.base, sides.spec.relation)
    keys = [key for key in read_foreign_keys(sides.legacy, sides.spec.table) if key.label in left]
    for one in count_orphans(sides.legacy, keys, seconds=sides.plan.scan_seconds):
        if one.rows != 0:
            evidence = (
                f"since the last rollback rows of the legacy point nowhere, and the key says that it holds: {one}"
            )
            remedy = (
                "in the legacy: put back, delete or change the rows that point nowhere, as the applications mean it"
            )
            yield Finding("rows_pointing_nowhere", Area.DATA, Severity.WARNING, evidence, remedy, one.key)


def _is_to_be_accepted(one: Hanging) -> bool:
    return one.kind in BY_KIND and BY_KIND[one.kind].fate is Fate.ACCEPTED


def _is_judged_here(one: Hanging) -> bool:
    """What hangs on types and parents was blocking before the migration began; rights have a look of their own."""
    return one.kind not in BY_KIND or BY_KIND[one.kind].readiness is not None
