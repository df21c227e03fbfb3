"""Finds others who write to the table, change what is written, or follow either side beside our own stream."""

from collections.abc import Iterator, Mapping

from psycopg.conninfo import conninfo_to_dict

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import TableSpec, quote_identifier
from migration_assets.postgres.own_schema import ON_TABLES, in_own_schema, own_schema
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.postgres.untrusted import bodies, functions_of
from migration_assets.preflight.plan import info, listed
from migration_assets.quarters.fences import OUR_TRIGGERS, fence_of_base
from migration_assets.stream.foreign_publications import SUBSCRIBERS_TABLES, followers, foreign_publications
from migration_assets.stream.legacy_side import GUARD

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
_TABLES = """
WITH tables AS (
    SELECT r.oid FROM (SELECT to_regclass(%(table)s)::oid AS oid) r WHERE r.oid IS NOT NULL
    UNION SELECT p.relid::oid FROM pg_partition_tree(to_regclass(%(table)s)) p
)
"""
_SUBSCRIPTIONS = """
SELECT s.subname::text, s.subenabled, pg_get_userbyid(s.subowner)::text, min(r.srrelid::regclass::text),
       concat_ws('|', s.oid, s.subenabled, pg_get_userbyid(s.subowner), s.subslotname, s.subpublications, _origin,
                 string_agg(r.srrelid::regclass::text, ',' ORDER BY r.srrelid::regclass::text))
FROM tables t JOIN pg_subscription_rel r ON r.srrelid = t.oid JOIN pg_subscription s ON s.oid = r.srsubid
WHERE s.subname <> ALL(%(ours)s::text[]) GROUP BY s.oid ORDER BY 1
"""
# A root's triggers exist again on each partition as clones, whose ENABLE setting may differ from the root's. Statement
# triggers never fire for an apply worker; a key's own triggers do so only where a superuser enabled them that way.
_TRIGGERS = """
SELECT g.tgname::text, t.oid::regclass::text, t.oid = to_regclass(%(table)s), g.tgenabled::text,
       pg_get_triggerdef(g.oid), _called
FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid
WHERE g.tgenabled IN ('A', 'R') AND g.tgtype & 1 = 1
  AND NOT EXISTS (SELECT FROM pg_trigger p WHERE p.oid = g.tgparentid AND p.tgenabled IN ('A', 'R'))
  AND NOT (g.tgname = ANY(%(triggers)s::text[]) AND g.tgfoid IN (
      SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'migration' AND p.proname = ANY(%(functions)s::text[])))
ORDER BY 3 DESC, 2, 1
""".replace("_called", bodies(functions_of("pg_trigger", "g.oid")))
_RULES = """
SELECT w.rulename::text, t.oid::regclass::text, t.oid = to_regclass(%(table)s), pg_get_ruledef(w.oid),
       w.ev_enabled::text, _called
FROM tables t JOIN pg_rewrite w ON w.ev_class = t.oid
WHERE w.ev_enabled <> 'D' ORDER BY 3 DESC, 2, 1
""".replace("_called", bodies(functions_of("pg_rewrite", "w.oid"), rules="SELECT w.oid"))
_ORIGIN_SINCE = 160000
_FIRES = {"A": "ALWAYS", "R": "REPLICA"}


def examine_both(legacy: Connected, base: Connected | None, spec: TableSpec) -> list[Finding]:
    """Examine the legacy, and the base where it is reachable; the ledger names our own streams."""
    if base is None:
        return examine_other_writers(legacy, spec, "legacy")
    fence = fence_of_base(base, spec.table)
    return [
        *examine_other_writers(legacy, spec, "legacy", ours=(fence.slot,)),
        *examine_other_writers(base, spec, "base", ours=(fence.subscription,)),
    ]


def examine_other_writers(
    connection: Connected, spec: TableSpec, side: Side, *, ours: tuple[str, ...] = ()
) -> list[Finding]:
    """Return one finding for each other writer; it blocks until a person accepts it by its name.

    Args:
        connection: A session with the side.
        spec: The table; where it is partitioned, its partitions are examined too.
        side: The side that is examined.
        ours: Names of our own subscriptions.
    """
    asked = {
        "table": str(spec.table),
        "ours": list(ours),
        "triggers": [GUARD, *OUR_TRIGGERS],
        "functions": list(ON_TABLES),
    }
    found = [
        *_subscriptions(connection, spec, side, asked),
        *_triggers(connection, side, asked),
        *_rules(connection, side, asked),
    ]
    if found:
        return found
    evidence = f"on the {side} no other subscription feeds the table, no trigger fires for streams, no rule is on it"
    return [info(_code("other_writers", side), _AREA[side], evidence)]


def _code(code: str, side: Side) -> str:
    return code if side == "legacy" else f"{code}_in_base"


def _blocking(code: str, side: Side, subject: str, evidence: str, remedy: str, *made_of: str) -> Finding:
    return Finding(
        _code(code, side), _AREA[side], Severity.BLOCKING, evidence, remedy, subject, True, "\n".join(made_of)
    )


def _subscriptions(
    connection: Connected, spec: TableSpec, side: Side, asked: Mapping[str, object]
) -> Iterator[Finding]:
    origins = connection.info.server_version >= _ORIGIN_SINCE
    subscriptions = _SUBSCRIPTIONS.replace("_origin", "s.suborigin" if origins else "NULL")
    publishers = _publishers(connection)
    for name, enabled, owner, table, made_of in connection.execute((_TABLES + subscriptions).encode(), asked):
        other = "the base is in charge" if side == "legacy" else "the legacy is in charge, or a rollback holds writes"
        yield _blocking(
            "other_subscription",
            side,
            name,
            f"subscription {name} of {owner}{'' if enabled else ', disabled now,'} writes to {table} on the {side}."
            f" While {other}, its writes are refused there: it stops, and its slot keeps WAL on its publisher"
            + (
                "" if side == "legacy"
                else "; and what it writes to a base in charge does not go back to the legacy: a rollback would lack it"
            ),
            f"let it write only to the side in charge, or end it before: ALTER SUBSCRIPTION {quote_identifier(name)}"
            f" DISABLE; on the {side}, or take {spec.table} out of its publication and REFRESH it",
            made_of,
            publishers.get(name, ""),
        )  # fmt: skip


def _publishers(connection: Connected) -> dict[str, str]:
    """Return where each subscription's rows come from, if our role may see it; without user and password."""
    row = connection.execute("SELECT has_column_privilege('pg_catalog.pg_subscription', 'subconninfo', 'SELECT')")
    if not require_row(row.fetchone(), "a privilege")[0]:
        return {}
    found = connection.execute(
        "SELECT subname::text, subconninfo FROM pg_subscription"
        " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return {
        name: str([conninfo_to_dict(info).get(part) for part in ("host", "hostaddr", "port", "dbname")])
        for name, info in found
    }


def _triggers(connection: Connected, side: Side, asked: Mapping[str, object]) -> Iterator[Finding]:
    stream = "the reverse stream, after a cutover," if side == "legacy" else "the change stream"
    for name, table, is_root, enabled, definition, called in connection.execute(_TABLES + _TRIGGERS, asked).fetchall():
        yield _blocking(
            "always_trigger",
            side,
            name if is_root else f"{name} on {table}",
            f"trigger {name} of {table} on the {side} is ENABLE {_FIRES[enabled]} ({definition}): it also fires for"
            f" every row that {stream} applies. It may change or refuse the row, or repeat its effects, so that the"
            " sides differ",
            f"on the {side}: ALTER TABLE {table} ENABLE TRIGGER {quote_identifier(name)}; -- then it fires for"
            " applications alone",
            enabled,
            definition,
            called or "",
        )


def _rules(connection: Connected, side: Side, asked: Mapping[str, object]) -> Iterator[Finding]:
    for name, table, is_root, definition, enabled, called in connection.execute(_TABLES + _RULES, asked).fetchall():
        yield _blocking(
            "redirecting_rule",
            side,
            name if is_root else f"{name} on {table}",
            f"rule {name} rewrites statements on {table} of the {side} ({definition}); neither streams nor COPY follow"
            " it, so that rows arrive there without its effect",
            f"move its task to a trigger, or to the application; then on the {side}: DROP RULE"
            f" {quote_identifier(name)} ON {table};",
            enabled,
            definition,
            called or "",
        )


def examine_foreign_publications(connection: Connected, side: Side) -> list[Finding]:
    """Return a finding for each publication of others; it blocks until a person confirms that subscribers are ready."""
    area = Area.LEGACY if side == "legacy" else Area.BASE
    code = "foreign_publication" if side == "legacy" else "foreign_publication_in_base"
    found = foreign_publications(connection)
    if not found:
        return [info(code, area, f"no publication of others carries what this program creates in the {side}")]
    everything, ours = "FOR ALL TABLES", f"FOR TABLES IN SCHEMA {own_schema(connection)}"
    needed = (
        f"on each of its subscribers run: {in_own_schema(connection, SUBSCRIBERS_TABLES)} (their subscriptions need no"
        " REFRESH, and get no rows of them)"
        if side == "legacy"
        else f"its subscribers need every table of the base's schema {own_schema(connection)}, and every leaf, also"
        " while it is loaded, which cannot be prepared"
    )
    return [
        Finding(
            code,
            area,
            Severity.BLOCKING,
            f"publication {one.name} {everything if one.all_tables else ours} carries this program's own"
            " tables: at the first row of one of them, every subscriber without it stops for good, for all tables."
            f" Slots of others: {listed(one.slots) or 'none now'}",
            f"{needed}; or split it, in the {side}: {one.apart} Then accept it, where it is still there",
            subject=one.name,
            acceptable=True,
            definition=everything if one.all_tables else ours,
        )
        for one in found
    ]


def examine_followers(connection: Connected, side: Side, spec: TableSpec) -> list[Finding]:
    """Return one finding for each other publication or slot that is sent the table's changes.

    On the base it blocks until a person accepts it: that follower will lack rows, and nothing else would say so.
    """
    area = Area.LEGACY if side == "legacy" else Area.BASE
    code = "follower" if side == "legacy" else "follower_in_base"
    found = followers(connection, spec.table)
    if not found:
        return [info(code, area, f"nobody else follows {spec.table} of the {side}")]
    findings: list[Finding] = []
    for one in found:
        evidence = (
            f"{one.what} sends the changes of {spec.table} to others; their slots: {listed(one.slots) or 'none now'}"
        )
        if side == "legacy":
            evidence += (
                ". While the legacy follows after a cutover, its rows are written by an apply worker: a subscription"
                " with origin = none gets none of them; and after the decommission nobody gets any"
            )
            remedy = "let these readers change to the base, with a fresh copy, before the legacy is decommissioned"
            findings.append(Finding(code, area, Severity.WARNING, evidence, remedy))
            continue
        evidence += (
            ". They get what the stream, a repair, a rollback or an application changes row by row. They never get rows"
            " that come with a whole leaf (a copy, also a live one, or a restore), nor the removal of a leaf (a"
            " retirement, a swap)"
        )
        if one.by_leaf:
            evidence += "; and each change is sent under its leaf's name, and a subscriber without that leaf stops"
        remedy = (
            "start them with a fresh copy once the weeks are copied, and again after each live copy, restore or"
            " retirement"
            + ("; with publish_via_partition_root = true they need the root alone" if one.by_leaf else "")
            + "; then accept it"
        )
        made_of = f"{one.what} by {'leaf' if one.by_leaf else 'root'}"
        findings.append(
            Finding(code, area, Severity.BLOCKING, evidence, remedy, one.name, acceptable=True, definition=made_of)
        )
    return findings
