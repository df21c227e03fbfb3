"""Examines the schemas of this program's own objects: whether objects or rights of others are in its way."""

from collections.abc import Sequence
from typing import LiteralString

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.ledger.own_objects import (
    CREATES,
    OWNS,
    how_to_move,
    read_own_schema,
    read_quarantine,
)
from migration_assets.postgres.own_schema import how_to_agree, our_schemas, own_quarantine, own_schema
from migration_assets.postgres.sessions import Connected, Side
from migration_assets.postgres.untrusted import TRUSTED
from migration_assets.preflight.plan import info, listed

# The owner of a table or domain may add defaults, checks and triggers, which run as our role with every row that we
# load. Other types, such as enums, run no code.
_OWNERS: LiteralString = """
, used AS (
    SELECT 'TABLE' AS kind, c.oid::regclass::text AS name, c.relowner AS owner FROM pg_class c
    WHERE c.oid IN (SELECT to_regclass(%(root)s) UNION SELECT relid FROM pg_partition_tree(to_regclass(%(root)s)))
    UNION ALL
    SELECT 'DOMAIN', format_type(t.oid, NULL), t.typowner FROM pg_type t
    WHERE t.typtype = 'd' AND t.oid IN (SELECT to_regtype(n) FROM unnest(%(types)s::text[]) n)
    UNION ALL
    SELECT 'SEQUENCE', c.oid::regclass::text, c.relowner FROM pg_class c
    WHERE c.relkind = 'S' AND c.oid IN (SELECT to_regclass(n) FROM unnest(%(sequences)s::text[]) n)
)
SELECT quote_ident(pg_get_userbyid(owner)::text), array_agg(lower(kind) || ' ' || name ORDER BY name),
       array_agg(format('ALTER %%s %%s OWNER TO CURRENT_USER;', kind, name) ORDER BY name)
FROM used WHERE owner NOT IN (SELECT oid FROM trusted) GROUP BY owner ORDER BY 1
"""
_OR_GRANT = "or, where that role is your own team's: GRANT it TO the role that this program uses"


def examine_own_schema(connection: Connected, side: Side) -> list[Finding]:
    """Examine names that collide, owners that are not trusted, and the right to create what is missing."""
    area = Area.LEGACY if side == "legacy" else Area.BASE
    schema = own_schema(connection)
    seen = read_own_schema(connection, side)
    findings: list[Finding] = []
    if seen.collisions:
        evidence = f"objects of others have names that this program needs: {listed(seen.collisions)}"
        evidence += f"; besides them there are: {listed(seen.others)}" if seen.others else ""
        findings.append(
            Finding("own_schema", area, Severity.BLOCKING, evidence, f"in the {side}: {how_to_move(connection)}")
        )
    if seen.untrusted:
        evidence = "a role that is neither ours nor a superuser could run its statements as our role: "
        evidence += listed([what for what, _ in seen.untrusted])
        remedy = f"in the {side}: " + " ".join(dict.fromkeys(remedy for _, remedy in seen.untrusted))
        remedy += f" -- as a superuser; {_OR_GRANT}"
        findings.append(Finding("own_schema", area, Severity.BLOCKING, evidence, remedy))
    for who, may in seen.meddlers:
        evidence = f"{who} is neither our role nor a superuser, and could damage this program's data: {listed(may)}"
        remedy = f"in the {side}: {_rights_back(schema, who, may)} -- as a superuser; {_OR_GRANT}"
        subject = f"{who} in the {side}"
        findings.append(Finding("own_schema", area, Severity.BLOCKING, evidence, remedy, subject, True, "\n".join(may)))
    if seen.missing_right:
        evidence = f"schema {schema} exists, but role {seen.missing_right} may not use it, or not create in it"
        remedy = f"in the {side}: GRANT USAGE, CREATE ON SCHEMA {schema} TO {seen.missing_right};"
        findings.append(Finding("own_schema", area, Severity.BLOCKING, evidence, remedy))
    if seen.unreadable:
        evidence = f"a ledger of this program exists, but role {seen.unreadable} may not read it"
        remedy = f"in the {side}: " + " ".join(
            f"ALTER {one.split()[0].upper()} {one.partition(' ')[2]} OWNER TO {seen.unreadable};" for one in seen.made
        )
        findings.append(Finding("own_schema", area, Severity.BLOCKING, evidence, remedy))
    if elsewhere := [one for one in our_schemas(connection) if one != schema]:
        evidence = f"this program also has objects in schema {listed(elsewhere)}; MIGRATION_OWN_SCHEMA is {schema}"
        findings.append(Finding("own_schema", area, Severity.BLOCKING, evidence, how_to_agree(elsewhere)))
    if findings:
        return findings
    others = f"; it also holds objects of others, which are not touched: {listed(seen.others)}" if seen.others else ""
    return [info("own_schema", area, f"nothing in schema {schema} is in this program's way{others}")]


def _rights_back(schema: str, who: str, may: Sequence[str]) -> str:
    statements: list[str] = []
    if OWNS in may:
        statements.append(f"ALTER SCHEMA {schema} OWNER TO CURRENT_USER;")
    if CREATES in may:
        statements.append(f"REVOKE CREATE ON SCHEMA {schema} FROM {who};")
    rights = sorted({one.split()[1].upper() for one in may if one not in {OWNS, CREATES}})
    if rights:
        statements.append(f"REVOKE {', '.join(rights)} ON ALL TABLES IN SCHEMA {schema} FROM {who};")
    if "UPDATE" in rights:
        statements.append(f"REVOKE UPDATE ON ALL SEQUENCES IN SCHEMA {schema} FROM {who};")
    return " ".join(statements)


def examine_quarantine(base: Connected) -> list[Finding]:
    """Examine whether weeks that leave the root are safe in the quarantine schema, and can be moved there at all."""
    seen, quarantine = read_quarantine(base), own_quarantine(base)
    findings: list[Finding] = []
    if seen.owner is not None:
        evidence = f"schema {quarantine} belongs to role {seen.owner}, who may drop the weeks in it"
        remedy = f"in the base: ALTER SCHEMA {quarantine} OWNER TO CURRENT_USER; -- as a superuser; or"
        remedy += f" GRANT {quote_identifier(seen.owner)} TO the role that this program uses"
        made_of = f"{quarantine} of {seen.owner}"
        findings.append(
            Finding("quarantine", Area.BASE, Severity.BLOCKING, evidence, remedy, seen.owner, acceptable=True,
                    definition=made_of)
        )  # fmt: skip
    if seen.missing_right is not None:
        evidence = f"role {seen.missing_right} may not create in schema {quarantine}: no week could be retired"
        remedy = f"in the base: GRANT USAGE, CREATE ON SCHEMA {quarantine} TO {seen.missing_right};"
        findings.append(Finding("quarantine", Area.BASE, Severity.WARNING, evidence, remedy))
    if seen.strangers:
        evidence = f"schema {quarantine} holds objects that no retirement put there: {listed(seen.strangers)}"
        remedy = "move it to another schema: a week whose leaf has the same name cannot be retired"
        findings.append(Finding("quarantine", Area.BASE, Severity.WARNING, evidence, remedy))
    return findings or [info("quarantine", Area.BASE, f"nothing of others is in schema {quarantine}")]


def examine_owners(base: Connected, legacy: TableDescription) -> list[Finding]:
    """Examine whether another role owns the base's table, a domain of its columns or a sequence that it uses."""
    names = {"types": [one.name for one in legacy.types], "sequences": [one.name for one in legacy.sequences]}
    wanted = {"root": str(legacy.table), **names}
    findings: list[Finding] = []
    for owner, things, statements in base.execute(TRUSTED + _OWNERS, wanted):
        evidence = f"role {owner}, which is neither our role nor a superuser, owns {listed(things)}: what it adds to"
        evidence += " a table or a domain (defaults, checks, triggers) runs as our role with every row that is loaded,"
        evidence += " and a sequence of its decides which keys come next"
        remedy = f"in the base: {' '.join(statements)} -- as a superuser, after checking what is on them; {_OR_GRANT}"
        made_of = "\n".join(things)
        findings.append(Finding("base_owner", Area.BASE, Severity.BLOCKING, evidence, remedy, owner, True, made_of))
    return findings or [
        info("base_owner", Area.BASE, f"nobody else owns {legacy.table}, or a domain or sequence that it uses")
    ]
