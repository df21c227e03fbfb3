"""Compares what roles may do: a role that may do something on the legacy's table may do it on the base's root, too.

Rights are compared by effect, not by name: memberships, PUBLIC and ownership count on both sides. A missing right is
put down to the role that was granted it on the legacy, so that the statements here repeat the legacy's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, quote_identifier
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.preflight.plan import info, listed
from migration_assets.readiness.rules import Sides

_PUBLIC = "public"


@dataclass(frozen=True)
class Role:
    """One role of a server; `login` is also false where the role's password has expired."""

    login: bool
    superuser: bool
    inherit: bool
    member_of: tuple[str, ...]


@dataclass(frozen=True)
class Right:
    """One privilege of a role.

    Attributes:
        role: The role's name; `public` for PUBLIC.
        kind: The kind of object: database, schema, table, column or sequence.
        privilege: As in GRANT.
        column: For a right on a column that column; for a sequence the column that it fills.
        grantable: Whether the role may grant it to others.
        through: The role that was granted it, where this one has it by membership.
    """

    role: str
    kind: str
    privilege: str
    column: str | None = None
    grantable: bool = False
    through: str | None = None

    @property
    def text(self) -> str:
        """The right in words."""
        what = {
            "column": f"of column {self.column}",
            "sequence": f"on the sequence of {self.column}",
        }.get(self.kind, f"on the {self.kind}")
        return f"{self.privilege} {what}{' with grant option' if self.grantable else ''}"

    def on(self, description: TableDescription, table: QualifiedName, database: str) -> str:
        """The object as GRANT names it on that side; `description` and `database` are that side's."""
        if self.kind == "database":
            return f"DATABASE {quote_identifier(database)}"
        if self.kind == "schema":
            return f"SCHEMA {quote_identifier(table.schema)}"
        if self.kind == "sequence":
            return f"SEQUENCE {sequence_of(description, self.column)}"
        return str(table)


@dataclass(frozen=True)
class Rights:
    """The table's owner, and all rights of all roles. Superusers are left out, and the rights of an owner as owner."""

    owner: str
    rights: tuple[Right, ...]


def sequence_of(description: TableDescription, column: str | None) -> str | None:
    """The sequence that fills the column on that side; None where there is none."""
    return next((one.sequence for one in description.sequence_uses if one.column == column), None)


def read_roles(connection: Connected) -> Mapping[str, Role]:
    """All roles of a server except the system's own."""
    rows = connection.execute(
        "SELECT r.rolname::text, r.rolcanlogin AND coalesce(r.rolvaliduntil > clock_timestamp(), true), r.rolsuper,"
        " r.rolinherit, ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        "                     WHERE m.member = r.oid ORDER BY 1)"
        " FROM pg_roles r WHERE r.rolname NOT LIKE 'pg\\_%' ORDER BY 1"
    )
    return {str(name): Role(login, superuser, inherit, tuple(of)) for name, login, superuser, inherit, of in rows}


# Rights as they were granted. The owner's rights count as the owner's by name, unless the owner is a superuser, who may
# do everything anyway.
_GRANTED = """
WITH objects(kind, acl, owner, col) AS (
    SELECT 'table', coalesce(c.relacl, acldefault('r', c.relowner)), c.relowner, NULL::text
    FROM pg_class c WHERE c.oid = to_regclass(%(table)s)
    UNION ALL
    SELECT 'column', a.attacl, c.relowner, a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.oid = to_regclass(%(table)s) AND a.attacl IS NOT NULL AND NOT a.attisdropped
    UNION ALL
    SELECT 'sequence', coalesce(c.relacl, acldefault('s', c.relowner)), c.relowner, s.col
    FROM unnest(%(sequences)s::text[], %(columns)s::text[]) s(name, col) JOIN pg_class c ON c.oid = to_regclass(s.name)
)
SELECT o.kind, coalesce(r.rolname::text, 'public'), g.privilege_type, o.col,
       bool_or(g.is_grantable AND g.grantee <> o.owner)
FROM objects o CROSS JOIN LATERAL aclexplode(o.acl) g LEFT JOIN pg_roles r ON r.oid = g.grantee
WHERE (g.grantee = 0 OR r.oid IS NOT NULL) AND NOT coalesce(r.rolsuper, false)
  AND g.privilege_type <> 'MAINTAIN' AND coalesce(r.rolname, '') <> current_user
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
# Roles that have these rights by membership: those that log in and inherit the rights of the granted role.
_MEMBERS = """
SELECT g.name, r.rolname::text FROM unnest(%s::text[]) g(name) JOIN pg_roles o ON o.rolname = g.name
JOIN pg_roles r ON r.oid <> o.oid AND pg_has_role(r.oid, o.oid, 'USAGE')
WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname NOT LIKE 'pg\\_%%' AND r.rolname <> current_user
"""
_AROUND = """
SELECT has_schema_privilege(r.oid, n.oid, 'USAGE'), has_database_privilege(r.oid, current_database(), 'CONNECT')
FROM pg_roles r, pg_namespace n WHERE n.nspname = %s AND r.rolname = %s
"""


def read_rights(connection: Connected, table: QualifiedName, description: TableDescription) -> Rights:
    """Everything that any role may do with the table on that side."""
    row = connection.execute(
        "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass(%s)", [str(table)]
    ).fetchone()
    owner = str(require_row(row, "the owner")[0])
    filled = {one.column: one.sequence for one in reversed(description.sequence_uses) if one.column is not None}
    found = [
        Right(role, kind, privilege, column, bool(grantable))
        for kind, role, privilege, column, grantable in connection.execute(
            _GRANTED,
            {
                "table": str(table),
                "sequences": list(filled.values()),
                "columns": list(filled),
            },
        )
    ]
    granted = sorted({right.role for right in found} - {_PUBLIC})
    by_membership: list[Right] = []
    for group, member in connection.execute(_MEMBERS, [granted]).fetchall():
        by_membership += [
            Right(member, right.kind, right.privilege, right.column, right.grantable, through=group)
            for right in found
            if right.role == group and not (right.role == owner and right.privilege in {"TRIGGER", "REFERENCES"})
        ]
    around: list[Right] = []
    for role in sorted({right.role for right in (*found, *by_membership)} - {_PUBLIC}):
        usage = connection.execute(_AROUND, [table.schema, role]).fetchone()
        if usage is not None:
            around += [Right(role, "schema", "USAGE")] if usage[0] else []
            around += [Right(role, "database", "CONNECT")] if usage[1] else []
    return Rights(owner, (*found, *by_membership, *around))


def missing_rights(
    connection: Connected, table: QualifiedName, description: TableDescription, wanted: Sequence[Right]
) -> list[Right]:
    """The rights of `wanted` that this side refuses; by effect, so that a more general grant counts as well."""
    missing: list[Right] = []
    for right in wanted:
        sequence = sequence_of(description, right.column) if right.kind == "sequence" else None
        if right.kind == "sequence" and sequence is None:
            continue  # the examination of sequences reports it
        if not _has(connection, table, right, sequence):
            missing.append(right)
    return missing


def _has(connection: Connected, table: QualifiedName, right: Right, sequence: str | None) -> bool:
    privilege = right.privilege + (" WITH GRANT OPTION" if right.grantable else "")
    if right.kind == "database":
        query, names = "has_database_privilege(%s, current_database(), %s)", []
    elif right.kind == "schema":
        query, names = "has_schema_privilege(%s, %s, %s)", [table.schema]
    elif right.kind == "sequence":
        query, names = "has_sequence_privilege(%s, %s, %s)", [sequence]
    elif right.kind == "column":
        query, names = "has_column_privilege(%s, %s, %s, %s)", [str(table), right.column]
    else:
        query, names = "has_table_privilege(%s, %s, %s)", [str(table)]
    row = connection.execute(f"SELECT {query}".encode(), [right.role, *names, privilege]).fetchone()
    return bool(require_row(row, "a right")[0])


def examine_grants(sides: Sides) -> list[Finding]:
    """Findings about roles, their rights, the owner and row security."""
    on_legacy = read_rights(sides.legacy, sides.spec.table, sides.of_legacy)
    wanted = {right.role for right in on_legacy.rights}
    here, there = read_roles(sides.legacy), read_roles(sides.base)
    findings = [*_roles(here, there, wanted), *_owner(sides, on_legacy, there), *_row_security(sides)]
    present = [right for right in on_legacy.rights if right.role == _PUBLIC or right.role in there]
    missing = _to_grant(missing_rights(sides.base, sides.spec.table, sides.of_base, present), there)
    findings += [_granted(sides, role, mine, there) for role, mine in _by_role(missing).items()]
    findings += _public_access(sides, on_legacy)
    if not missing:
        evidence = f"{len(present)} rights of {len(wanted)} roles on the legacy's table: the base grants all of them"
        findings.append(info("grants", Area.BASE, evidence))
    user = require_row(sides.legacy.execute("SELECT current_user::text").fetchone(), "the role")[0]
    findings.append(info("role_not_compared", Area.LEGACY, f"role {user}, which this program uses, was not compared"))
    return findings


def _to_grant(missing: Sequence[Right], there: Mapping[str, Role]) -> list[Right]:
    """Leave out a right that the role gets through its group on the base, once that group is granted it."""
    lacking = {(right.role, right.kind, right.privilege, right.column) for right in missing}
    return [
        right
        for right in missing
        if right.through is None
        or (right.through, right.kind, right.privilege, right.column) not in lacking
        or right.through not in there[right.role].member_of
    ]


def _by_role(rights: Sequence[Right]) -> dict[str, list[Right]]:
    return {
        role: [right for right in rights if right.role == role] for role in sorted({right.role for right in rights})
    }


def _granted(sides: Sides, role: str, rights: Sequence[Right], there: Mapping[str, Role]) -> Finding:
    """The finding for one role: grants to the role itself, or the membership that gave it the rights on the legacy."""
    groups = sorted({right.through for right in rights if right.through is not None and right.through in there})
    own = [right for right in rights if right.through is None or right.through not in there]
    name = "PUBLIC" if role == _PUBLIC else quote_identifier(role)
    statements = [f"GRANT {quote_identifier(group)} TO {name};" for group in groups]
    statements += list(_grants(sides, name, own))
    what = listed(sorted({right.text for right in rights}))
    evidence = f"{name} may on the legacy, and not on the base: {what}"
    return Finding("grants", Area.BASE, Severity.BLOCKING, evidence, "in the base: " + " ".join(statements))


def _grants(sides: Sides, name: str, rights: Sequence[Right]) -> Iterator[str]:
    """One statement for each object; privileges and columns are put together."""
    database = str(require_row(sides.base.execute("SELECT current_database()").fetchone(), "the database")[0])
    by: dict[tuple[str, bool], list[Right]] = {}
    for right in rights:
        by.setdefault((right.on(sides.of_base, sides.spec.table, database), right.grantable), []).append(right)
    for (target, grantable), mine in by.items():
        columns: dict[str, list[str]] = {}
        for right in mine:
            columns.setdefault(right.privilege, [])
            if right.kind == "column" and right.column is not None:
                columns[right.privilege].append(quote_identifier(right.column))
        privileges = ", ".join(f"{one} ({', '.join(of)})" if of else one for one, of in columns.items())
        yield f"GRANT {privileges} ON {target} TO {name}{' WITH GRANT OPTION' if grantable else ''};"


def _roles(here: Mapping[str, Role], there: Mapping[str, Role], wanted: set[str]) -> Iterator[Finding]:
    missing = sorted(wanted - {_PUBLIC} - there.keys())
    if missing:
        statements = [
            f"CREATE ROLE {quote_identifier(name)} {'LOGIN' if here[name].login else 'NOLOGIN'}"
            f"{'' if here[name].inherit else ' NOINHERIT'};"
            + "".join(
                f" GRANT {quote_identifier(group)} TO {quote_identifier(name)};" for group in here[name].member_of
            )
            for name in missing
        ]
        evidence = f"{len(missing)} roles that may do something on the legacy's table are not on the base's server:"
        yield Finding(
            "role_missing",
            Area.BASE,
            Severity.BLOCKING,
            f"{evidence} {listed(missing)}",
            "in the base: " + " ".join(statements) + " -- with their passwords: pg_dumpall --roles-only",
        )
    shut = [name for name in sorted(wanted & there.keys() & here.keys()) if here[name].login and not there[name].login]
    if shut:
        remedy = "in the base: " + " ".join(f"ALTER ROLE {quote_identifier(name)} LOGIN;" for name in shut)
        evidence = f"may log in on the legacy alone, or their password is past its time: {listed(shut)}"
        yield Finding("role_login", Area.BASE, Severity.BLOCKING, evidence, remedy)
    supers = [name for name, role in here.items() if role.superuser and not (name in there and there[name].superuser)]
    if supers:
        remedy = "check whether an application uses them; a role of its own with the rights it needs is better"
        evidence = (
            f"superusers of the legacy that are not superusers on the base; their rights were not compared:"
            f" {listed(supers)}"
        )
        yield Finding("superusers", Area.BASE, Severity.WARNING, evidence, remedy)


def _owner(sides: Sides, on_legacy: Rights, there: Mapping[str, Role]) -> Iterator[Finding]:
    row = sides.base.execute(
        "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass(%s)", [str(sides.spec.table)]
    ).fetchone()
    owner = require_row(row, "the owner")[0]
    if owner == on_legacy.owner:
        yield info("owner", Area.BASE, f"the table belongs to {owner} on both sides")
        return
    remedy = (
        f"in the base: ALTER TABLE {sides.spec.table} OWNER TO {quote_identifier(on_legacy.owner)}; and of every"
        " partition; or leave it, if no application alters the table as its owner: rights are compared separately"
    )
    known = "" if on_legacy.owner in there else ", a role that the base does not have"
    evidence = f"the table belongs to {on_legacy.owner} in the legacy{known}, to {owner} in the base"
    yield Finding("owner", Area.BASE, Severity.WARNING, evidence, remedy)


_ROW_SECURITY = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = to_regclass(%s)"


def _row_security(sides: Sides) -> Iterator[Finding]:
    table = sides.spec.table
    here = require_row(sides.legacy.execute(_ROW_SECURITY, [str(table)]).fetchone(), "row security")
    there = require_row(sides.base.execute(_ROW_SECURITY, [str(table)]).fetchone(), "row security")
    for on_legacy, on_base, word in zip(here, there, ("ENABLE", "FORCE"), strict=True):
        if on_legacy and not on_base:
            remedy = (
                f"in the base: CREATE POLICY … as on the legacy, then ALTER TABLE {table} {word} ROW LEVEL SECURITY;"
            )
            evidence = f"row security ({word}) hides rows on the legacy, and none on the base: policies are not copied"
            yield Finding("row_security", Area.BASE, Severity.BLOCKING, evidence, remedy)
        elif on_base and not on_legacy:
            remedy = (
                f"in the base: ALTER TABLE {table} {'DISABLE' if word == 'ENABLE' else 'NO FORCE'} ROW LEVEL SECURITY;"
            )
            evidence = f"row security ({word}) hides rows on the base, and none on the legacy"
            yield Finding("row_security", Area.BASE, Severity.BLOCKING, evidence, remedy)


def _public_access(sides: Sides, on_legacy: Rights) -> Iterator[Finding]:
    """Rights that PUBLIC has on the base and not on the legacy."""
    of_base = read_rights(sides.base, sides.spec.table, sides.of_base)
    allowed = {right.text for right in on_legacy.rights if right.role == _PUBLIC}
    extra = sorted(right.text for right in of_base.rights if right.role == _PUBLIC and right.text not in allowed)
    extra = [text for text in extra if " on the table" in text or " of column" in text]
    if extra:
        remedy = f"in the base: REVOKE ALL ON {sides.spec.table} FROM PUBLIC;"
        evidence = f"everybody may on the base, and not on the legacy: {listed(extra)}"
        yield Finding("public_rights", Area.BASE, Severity.WARNING, evidence, remedy)
