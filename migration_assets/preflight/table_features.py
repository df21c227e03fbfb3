"""Everything that can hang on a table, kind by kind: how it is found, what becomes of it, and what to do about it."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.catalogue import relation_oid
from migration_assets.postgres.sessions import Connected
from migration_assets.preflight.plan import info, listed
from migration_assets.quarters.fences import OUR_TRIGGERS
from migration_assets.stream.legacy_side import GUARD

# Our own triggers on the table, which are not reported.
_OURS = (GUARD, *OUR_TRIGGERS)


@dataclass(frozen=True)
class Hanging:
    """One object or property that depends on the table.

    Attributes:
        kind: A kind of `FEATURES`.
        name: The same on both sides for the same thing.
        shown: Its description for people.
        statement: The statement that creates it on the base; None where no single statement does.
    """

    kind: str
    name: str
    shown: str
    statement: str | None


def read_features(connection: Connected, table: QualifiedName) -> list[Hanging]:
    """Return everything that depends on the table; nothing where it does not exist. Statements qualify every name."""
    oid = relation_oid(connection, table)
    if oid is None:
        return []
    query = files("migration_assets.preflight").joinpath("table_features.sql").read_text()
    with connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog")
        rows = connection.execute(query.encode(), {"oid": oid, "ours": list(_OURS)}).fetchall()
    return [Hanging(*row) for row in rows]


class Fate(StrEnum):
    """What becomes of a kind of thing."""

    CARRIED = "carried"
    BY_HAND = "made by hand"
    BLOCKS = "blocks"
    ACCEPTED = "blocks until accepted by name"
    CHANGES = "changes meaning"
    NOTHING = "needs nothing"


class When(StrEnum):
    """The point from which on it matters."""

    STREAM = "before the stream"
    CUTOVER = "before the cutover"
    ROLLBACK = "at a rollback"


@dataclass(frozen=True)
class Feature:
    """One kind of thing that can depend on the table.

    Attributes:
        kind: As `preflight/table_features.sql` names it, or in plain words where another check finds it.
        code: Code of the finding.
        fate: What becomes of it.
        when: The point from which on that matters.
        remedy: What it means and what to do; the check adds statements that create it on the base.
        preflight: Severity before the migration.
        readiness: Severity before the cutover, where the base has none of that name; None if another check judges it
            then.
        found: Whether `preflight/table_features.sql` finds it; else the check with that code does.
    """

    kind: str
    code: str
    fate: Fate
    when: When
    remedy: str
    preflight: Severity = Severity.WARNING
    readiness: Severity | None = Severity.WARNING
    found: bool = True


UNKNOWN = Feature(
    "unknown",
    "unknown_kind",
    Fate.BY_HAND,
    When.CUTOVER,
    "this program does not know this kind of object: find out who needs it, and whether the base, or what takes the"
    " table's place, must have it",
)
_BLOCKING, _WARNING, _INFO = Severity.BLOCKING, Severity.WARNING, Severity.INFO


def _found(
    kind: str,
    fate: Fate,
    when: When,
    remedy: str,
    preflight: Severity = _WARNING,
    readiness: Severity | None = _WARNING,
) -> Feature:
    return Feature(kind, kind.replace(" ", "_").replace("'", ""), fate, when, remedy, preflight, readiness)


def _elsewhere(kind: str, code: str, fate: Fate, when: When, remedy: str) -> Feature:
    return Feature(kind, code, fate, when, remedy, found=False)


FEATURES: tuple[Feature, ...] = (
    _elsewhere("columns, types, defaults, NOT NULL, collations, comments", "columns_differ", Fate.CARRIED, When.CUTOVER,
               "made with the base's root; compared by readiness and by the watch"),
    _elsewhere("structure of types and collations", "types_differ", Fate.CARRIED, When.STREAM,
               "fields, labels in their order, domains, ranges, collations: compared also where they are nested; enums"
               " and domains are created with the root, for the others preflight prints statements"),
    _elsewhere("deferrable key", "types_differ", Fate.CARRIED, When.STREAM,
               "DEFERRABLE as in the legacy; a root that was created otherwise is named with its statement"),
    _elsewhere("primary key", "primary_key", Fate.CHANGES, When.CUTOVER,
               "the base's has the control column as well: that the old key alone is unique is no longer enforced"),
    _elsewhere("unique index without the control column", "unique_indexes", Fate.CHANGES, When.CUTOVER,
               "carried as an ordinary index: the applications must keep it unique"),
    _elsewhere("ON CONFLICT, MERGE and upserts by such a key", "upsert_targets", Fate.CHANGES, When.CUTOVER,
               "they fail, or insert twice: the applications name the key that the base has"),
    _elsewhere("other indexes", "index_missing", Fate.CARRIED, When.CUTOVER,
               "made with the base's root; one that came later is named by readiness with its statement"),
    _elsewhere("check constraint", "check_missing", Fate.CARRIED, When.CUTOVER,
               "made with the base's root; one that came later is named by readiness with its statement"),
    _elsewhere("generated column", "generated_columns", Fate.CARRIED, When.STREAM,
               "computed again by the base; blocks on a legacy of PostgreSQL 18, where FULL identity refuses it"),
    _elsewhere("sequence, identity", "sequences", Fate.CARRIED, When.CUTOVER,
               "made with the base's root, also where only OWNED BY, a function or a trigger draws from it; set beyond"
               " the legacy's keys by the cutover, which then draws the next keys for a trial"),
    _elsewhere("function for new rows that draws from what it does not name", "unknown_sequence", Fate.ACCEPTED,
               When.CUTOVER, "find out which sequence, make it in the base and set it there"),
    _elsewhere("replica identity", "replica_identity", Fate.CHANGES, When.STREAM,
               "FULL from the stream's start on: more WAL, and whole old rows for everyone who decodes the table"),
    _elsewhere("publication of others with a column list", "updates_refused", Fate.BLOCKS, When.STREAM,
               "with FULL identity every UPDATE and DELETE would fail: it must publish all columns"),
    _elsewhere("publication of others FOR ALL TABLES or of our schema", "foreign_publication", Fate.ACCEPTED,
               When.STREAM, "its subscribers stop at the first marker, unless they have the tables that hold markers"),
    _elsewhere("publication of others of the base's table", "follower_in_base", Fate.ACCEPTED, When.STREAM,
               "its subscribers never get what comes or goes with a whole leaf: copies, restores, retirements"),
    _elsewhere("publication of others of the legacy's table", "follower", Fate.BY_HAND, When.CUTOVER,
               "its readers change to the base: after the decommission they get nothing"),
    _elsewhere("subscription of others that writes to the table", "other_subscription", Fate.ACCEPTED, When.STREAM,
               "it brings changes past every hold: see the other writers"),
    _elsewhere("trigger ENABLE ALWAYS or REPLICA", "always_trigger", Fate.ACCEPTED, When.STREAM,
               "it fires for apply workers, too: see the other writers"),
    _elsewhere("rule that redirects what is written", "redirecting_rule", Fate.ACCEPTED, When.STREAM,
               "no apply worker follows rules: see the other writers"),
    _elsewhere("schema of others with our schema's name", "own_schema", Fate.BLOCKS, When.STREAM,
               "nothing with a name that this program needs is touched: it must be renamed or moved, or"
               " MIGRATION_OWN_SCHEMA names another schema"),
    _elsewhere("row security that is on", "row_security", Fate.BLOCKS, When.STREAM,
               "our role must see all rows; before the cutover it must be on in the base, too"),
    _elsewhere("owner", "owner", Fate.BY_HAND, When.CUTOVER, "readiness names a difference with its statement"),
    _found("incoming foreign key", Fate.ACCEPTED, When.ROLLBACK,
           "other tables point at this one and do not see rows that are in the base alone. After writes on the base, a"
           " rollback leaves such references without a target under a constraint that claims to hold, since an apply"
           " worker fires no trigger of a key: neither its check nor its CASCADE or SET NULL. Decide whether that table"
           " moves too, or loses the key before the cutover. A rollback counts such rows before and afterwards. In the"
           " base the key must contain the control column", readiness=_BLOCKING),
    _found("outgoing foreign key", Fate.BY_HAND, When.CUTOVER,
           "carry the referenced tables to the base, and add the key there; until then the legacy enforces it for every"
           " row that comes from there. Rows that come back by a rollback are not checked: violations are counted"),
    _found("exclusion constraint", Fate.BY_HAND, When.CUTOVER,
           "the legacy enforces it until the cutover; after it only ALTER TABLE leaf ADD EXCLUDE … on each leaf (or,"
           " from PostgreSQL 17 on, a constraint that compares the control column for equality) enforces it, per week"),
    Feature("check constraint that was never validated", "unvalidated_check", Fate.BY_HAND, When.CUTOVER,
            "ALTER TABLE … VALIDATE CONSTRAINT … on the legacy carries it; correct rows that violate it first"),
    Feature("domain check that was never validated", "domain_check_that_was_never_validated", Fate.BY_HAND,
            When.CUTOVER, "validate it on the legacy, then add it to the base's domain"),
    _found("trigger", Fate.BY_HAND, When.CUTOVER,
           "the legacy's triggers keep firing for its writers, and what they write into this table is carried. For the"
           " time after the cutover create them on the base's root just before it, never earlier, or rows change twice."
           " Triggers that fire ALWAYS or for replicas are judged by another check"),
    _found("rule", Fate.BY_HAND, When.CUTOVER,
           "rules redirect writes: find out what for, and move that task to the application or to a trigger on the base"
           " at the cutover"),
    _found("row security policy", Fate.BY_HAND, When.CUTOVER,
           "create them on the base's root before anybody but the owner reads it, and ALTER TABLE … ENABLE ROW LEVEL"
           " SECURITY; until then grant nothing there"),
    _found("extended statistics", Fate.BY_HAND, When.CUTOVER,
           "create them on the base's root after the first quarter is loaded, and ANALYZE it", _INFO, _WARNING),
    _found("privilege", Fate.BY_HAND, When.CUTOVER,
           "repeat the GRANTs on the base's root before the cutover; roles have to exist there first", readiness=None),
    _found("column privilege", Fate.BY_HAND, When.CUTOVER,
           "repeat the GRANTs on the base's root before the cutover; roles have to exist there first", readiness=None),
    _found("default privilege", Fate.BY_HAND, When.CUTOVER,
           "tables that such roles create in the base get these rights only where they are set there, too; leaves are"
           " created by the role that migrates", _INFO, _INFO),
    _found("child table", Fate.BLOCKS, When.STREAM,
           "rows of children show in reads of the parent, but not in its publication: move them into the parent and"
           " ALTER TABLE child NO INHERIT parent; a hold does not stop writes to a child", _BLOCKING, _BLOCKING),
    _found("parent table", Fate.BLOCKS, When.STREAM,
           "the table is a child or partition of another table: migrate the parent instead, or ALTER TABLE … NO INHERIT"
           " / DETACH PARTITION", _BLOCKING, _BLOCKING),
    _found("unlogged table", Fate.BLOCKS, When.STREAM,
           "ALTER TABLE … SET LOGGED: changes of an unlogged table are not in the WAL and cannot be published",
           _BLOCKING, _BLOCKING),
    _found("typed table", Fate.CHANGES, When.CUTOVER,
           "the base's root has the columns, not the type: ALTER TYPE no longer alters it", _INFO, _INFO),
    Feature("extension that the table belongs to", "table_of_an_extension", Fate.CHANGES, When.CUTOVER,
            "an extension's script created this table: in the base CREATE EXTENSION would create one that is not"
            " partitioned. Ask its authors whether it works with a partitioned table"),
    _found("view", Fate.BY_HAND, When.CUTOVER,
           "views keep reading the legacy: create them in the base (in this order), and their GRANTs"),
    _found("materialized view", Fate.BY_HAND, When.CUTOVER,
           "they keep being filled from the legacy: create them in the base, with their indexes and whatever refreshes"
           " them"),
    _found("rule of another table", Fate.BY_HAND, When.CUTOVER,
           "it writes to this table of the legacy: where that other table moves, its rule must move too"),
    _found("function that uses it", Fate.BY_HAND, When.CUTOVER,
           "create it in the base, with its GRANTs, before applications call it there"),
    _found("function whose text names it", Fate.BY_HAND, When.CUTOVER,
           "the catalogue does not know what texts refer to: check whether this table is meant, and whether the"
           " function is called in the base; look for ON CONFLICT in it", _INFO, _INFO),
    _found("function that a default calls", Fate.BY_HAND, When.STREAM,
           "the base's root has the same default, so that the function must be there first, and do the same",
           _INFO, None),
    Feature("column of the row's type", "row_type_used", Fate.BY_HAND, When.CUTOVER,
            "another table has a column of this table's row type: in the base the type is the root's, where the columns"
            " may stand in another order"),
    _found("storage parameter", Fate.BY_HAND, When.CUTOVER,
           "a partitioned table has none: set them on every leaf, and again when new quarters were opened",
           _INFO, _WARNING),
    _found("statistics target", Fate.BY_HAND, When.CUTOVER,
           "set it on the base's root, which hands it to the leaves that are there, and ANALYZE it; again when new"
           " quarters were opened", _INFO, _WARNING),
    _found("column option", Fate.BY_HAND, When.CUTOVER,
           "set it on every leaf (n_distinct of the whole table: n_distinct_inherited on the root), and ANALYZE",
           _INFO, _WARNING),
    _found("security label", Fate.BY_HAND, When.CUTOVER,
           "labels decide who may see what: set them on the base's root and leaves before anybody reads them"),
    _found("tablespace", Fate.BY_HAND, When.CUTOVER,
           "leaves are made in the base's default tablespace: set default_tablespace for the role that migrates, or"
           " move them later, each under an exclusive lock", _INFO, None),
    _found("access method", Fate.CHANGES, When.STREAM,
           "leaves are created with the base's default_table_access_method", _WARNING, None),
    _found("event trigger", Fate.CHANGES, When.STREAM,
           "it fires when this program creates its own tables, publication and triggers, and may refuse that; the base"
           " has none of it", _INFO, _INFO),
    UNKNOWN,
)  # fmt: skip
BY_KIND: Mapping[str, Feature] = {feature.kind: feature for feature in FEATURES if feature.found}


_ABOUT = """\
Written from `migration_assets/preflight/table_features.py`, by which preflight and readiness judge, with
`python -m migration_assets.preflight.table_features > docs/what-hangs-on-a-table.md`; a test fails where they differ.

*Code* is the finding's code. For what is *made by hand*, preflight and readiness print statements for the base;
readiness leaves out what the base already has, by kind and name. What *blocks until accepted by name* is accepted with
`migration-assets accept CODE NAME --by … --reason …` in its present form: altered or recreated, it blocks again. What
no row names has the kind *unknown*, and is always reported."""


def matrix() -> str:
    """Return the documentation's page."""
    lines = [
        "# What hangs on a table, and what becomes of it",
        "",
        _ABOUT,
        "",
        "| kind | what becomes of it | when | code | preflight | readiness | what it means, what to do |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in FEATURES:
        severities = [str(one.preflight), str(one.readiness or "see its own check")] if one.found else ["", ""]
        cells = [one.kind, str(one.fate), str(one.when), f"`{one.code}`", *severities, one.remedy]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def examine_not_carried(legacy: Connected, table: QualifiedName) -> list[Finding]:
    """Return one finding for each kind that exists, and one for all kinds that do not."""
    hanging = read_features(legacy, table)
    kinds = {one.kind for one in hanging}
    absent = [kind for kind, feature in BY_KIND.items() if kind not in kinds and feature is not UNKNOWN]
    return [
        *judge_features(hanging, before_cutover=False),
        info("not_carried", Area.TABLE, f"no {', no '.join(absent)}"),
    ]


def judge_features(hanging: Sequence[Hanging], *, before_cutover: bool) -> list[Finding]:
    """Return a finding for each kind, or for each thing where it has to be accepted by its name."""
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


if __name__ == "__main__":
    sys.stdout.write(matrix())
