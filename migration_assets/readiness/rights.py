"""Which role may do what with a table, its columns, its sequences, its schema and its database; by effect.

Belongs here: reading rights on one side, and asking the other whether it grants them. What to make of it: `grants`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, quote_identifier
from migration_assets.postgres.sessions import Connected, require_row

_PUBLIC = "public"


@dataclass(frozen=True)
class Role:
    """One role of a server; `login` is false also where the password's time is over."""

    login: bool
    superuser: bool
    inherit: bool
    member_of: tuple[str, ...]


@dataclass(frozen=True)
class Right:
    """One thing that a role may do.

    Attributes:
        role: Its name; `public` for everybody.
        kind: What on: database, schema, table, column or sequence.
        privilege: As in GRANT.
        column: Of a right on a column, or the one that a sequence fills.
        grantable: Whether the role may pass it on.
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
        """For people."""
        what = {
            "column": f"of column {self.column}",
            "sequence": f"on the sequence of {self.column}",
        }.get(self.kind, f"on the {self.kind}")
        return f"{self.privilege} {what}{' with grant option' if self.grantable else ''}"

    def on(self, description: TableDescription, table: QualifiedName, database: str) -> str:
        """The object as GRANT names it on that side."""
        if self.kind == "database":
            return f"DATABASE {quote_identifier(database)}"
        if self.kind == "schema":
            return f"SCHEMA {quote_identifier(table.schema)}"
        if self.kind == "sequence":
            return f"SEQUENCE {sequence_of(description, self.column)}"
        return str(table)


@dataclass(frozen=True)
class Rights:
    """All rights of all roles that are no superusers, but the owner's by ownership; and who the owner is."""

    owner: str
    rights: tuple[Right, ...]


def sequence_of(description: TableDescription, column: str | None) -> str | None:
    """The sequence that fills the column there."""
    return next((one.sequence for one in description.sequence_uses if one.column == column), None)


def read_roles(connection: Connected) -> Mapping[str, Role]:
    """All of a server but the system's own."""
    rows = connection.execute(
        "SELECT r.rolname::text, r.rolcanlogin AND coalesce(r.rolvaliduntil > clock_timestamp(), true), r.rolsuper,"
        " r.rolinherit, ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        "                     WHERE m.member = r.oid ORDER BY 1)"
        " FROM pg_roles r WHERE r.rolname NOT LIKE 'pg\\_%' ORDER BY 1"
    )
    return {str(name): Role(login, superuser, inherit, tuple(of)) for name, login, superuser, inherit, of in rows}


# Who was granted what in so many words. The owner's own rights count for the owner, by name, unless they are a
# superuser's, whom nothing is refused.
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
# Who has these by being a member: roles that log in, and that inherit what the granted one has.
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
    """Everything that somebody may do with the table there."""
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
    """Those that this side refuses; by effect, so that more general grants serve as well."""
    missing: list[Right] = []
    for right in wanted:
        sequence = sequence_of(description, right.column) if right.kind == "sequence" else None
        if right.kind == "sequence" and sequence is None:
            continue  # `sequences` says so
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
