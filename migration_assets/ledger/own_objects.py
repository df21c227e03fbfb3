"""The objects that this program creates in schema `migration`, and how they are distinguished from foreign objects.

An object is ours if it has our comment, or if an earlier version of this program made it, which its columns or its text
show. No other object of these names is ever replaced, used or dropped.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, LiteralString
from weakref import WeakSet

from migration_assets.domain.errors import ForeignObjectError
from migration_assets.postgres.own_schema import (
    EVERYWHERE,
    in_own_schema,
    own_quarantine,
    own_schema,
    own_sql,
    require_not_renamed,
)
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.postgres.untrusted import ALL_OURS, TRUSTED, UNTRUSTED

TAG: LiteralString = "migration_assets: "
# How the tables that travel look on the legacy: made so, and shown so to subscribers of all of its tables.
MARKERS: LiteralString = (
    "migration.markers (relation text NOT NULL, id integer NOT NULL, kind text NOT NULL,"
    " sent_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (relation, id))"
)
REVERSE_MARKERS: LiteralString = (
    "migration.reverse_markers (relation text NOT NULL, id bigint NOT NULL,"
    " sent_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (relation, id))"
)
HOLDS: LiteralString = (
    "migration.holds (relation text PRIMARY KEY, owner bigint NOT NULL, opener bigint, opening boolean NOT NULL DEFAULT"
    " false, held_at timestamptz NOT NULL DEFAULT clock_timestamp())"
)
# After a crash unlogged rows are gone, like the sessions that wrote them. And publications of all tables of a database
# do not carry them.
SESSION_LOCKS: LiteralString = (
    "migration.session_locks (id bigint PRIMARY KEY, name text NOT NULL, shared boolean NOT NULL, pid integer NOT NULL,"
    " role oid NOT NULL, backend_start timestamptz, since timestamptz NOT NULL DEFAULT clock_timestamp())"
)
# For each table the columns that all its versions have had; for a sequence the columns of its row.
_TABLES: Mapping[str, Mapping[str, str]] = {
    **EVERYWHERE,
    "reverse_markers": {"relation": "text", "id": "bigint", "sent_at": "timestamp with time zone"},
    "holds": {"relation": "text", "owner": "bigint", "opener": "bigint", "opening": "boolean"},
    "hold_token": {"token": "text"},
    "marker_id": {"last_value": "bigint", "log_cnt": "bigint", "is_called": "boolean"},
    "schema_versions": {"version": "integer", "upgraded_at": "timestamp with time zone"},
}
_FUNCTIONS = frozenset({
    "refuse_truncate()", "refuse_writes()", "refuse_rows()", "refuse_base_truncate()", "subscribe()",
    "wait_at_reverse_marker()",
})  # fmt: skip
# A text in the bodies of earlier versions that no function of somebody else has.
_OUR_TEXT = ("migration_assets", ".worker'", "would not reach the legacy")
_PLACES: LiteralString = """
SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
            WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'index' END,
       c.relname::text, pg_get_userbyid(c.relowner)::text,
       c.relowner IN (SELECT oid FROM trusted), coalesce(obj_description(c.oid, 'pg_class'), ''), '',
       CASE WHEN c.relkind IN ('r', 'S') THEN
           (SELECT json_object_agg(a.attname, format_type(a.atttypid, NULL)) FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END
FROM pg_class c
WHERE c.relnamespace = to_regnamespace('migration') AND c.relkind <> 't'
UNION ALL
SELECT 'type', t.typname::text, pg_get_userbyid(t.typowner)::text, true, '', '', NULL
FROM pg_type t WHERE t.typnamespace = to_regnamespace('migration') AND t.typrelid = 0 AND t.typelem = 0
UNION ALL
SELECT 'function', format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)),
       pg_get_userbyid(p.proowner)::text, p.proowner IN (SELECT oid FROM trusted),
       coalesce(obj_description(p.oid, 'pg_proc'), ''), p.prosrc, NULL
FROM pg_proc p WHERE p.pronamespace = to_regnamespace('migration')
ORDER BY 1, 2
"""
OWNS: LiteralString = "owns the schema"
CREATES: LiteralString = "may create in the schema"
# Roles that could harm the ledger without running anything as our role: they could drop its objects, create objects in
# the way of its next version, write false rows, or lock its tables. Only reading is harmless.
_MEDDLERS: LiteralString = """
, ours AS (
    SELECT c.oid, c.relname, c.relacl FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('migration') AND c.relkind IN ('r', 'S') AND c.relname = ANY(%(names)s)
), found AS (
    SELECT n.nspowner AS role, %(owns)s AS may FROM pg_namespace n WHERE n.nspname = 'migration'
    UNION ALL
    SELECT a.grantee, %(creates)s FROM pg_namespace n, aclexplode(n.nspacl) a
    WHERE n.nspname = 'migration' AND a.privilege_type = 'CREATE'
    UNION ALL
    SELECT a.grantee, format('may %%s migration.%%I', lower(a.privilege_type), o.relname)
    FROM ours o, LATERAL (
        SELECT * FROM aclexplode(o.relacl)
        UNION ALL SELECT x.* FROM pg_attribute t, aclexplode(t.attacl) x WHERE t.attrelid = o.oid) a
    WHERE a.privilege_type NOT IN ('SELECT', 'USAGE', 'TRIGGER')
)
SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)::text) END,
       array_agg(DISTINCT may ORDER BY may)
FROM found WHERE role NOT IN (SELECT oid FROM trusted) GROUP BY 1 ORDER BY 1
"""
# The owner of a schema may drop everything in it. Our role needs both USAGE and CREATE on it.
_QUARANTINE: LiteralString = """
SELECT pg_get_userbyid(n.nspowner)::text, n.nspowner IN (SELECT oid FROM trusted),
       CASE WHEN NOT has_schema_privilege(n.oid, 'CREATE') OR NOT has_schema_privilege(n.oid, 'USAGE')
            THEN quote_ident(current_user) END,
       ARRAY(SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = n.oid
             AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname <> ALL(%(ours)s::text[]) ORDER BY 1)
FROM pg_namespace n WHERE n.nspname = %(schema)s
"""
# A schema that does not exist yet will be ours.
_RIGHTS = """
SELECT quote_ident(current_user), coalesce(has_schema_privilege(n.oid, 'USAGE'), true),
       coalesce(has_schema_privilege(n.oid, 'CREATE'), true)
FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = 'migration'
"""
NAMES_OF_HOLDS = frozenset({"holds", "hold_token", "refuse_writes()", "refuse_rows()", "refuse_base_truncate()"})
_LISTED = frozenset({"table", "view", "materialized view", "sequence", "foreign table", "function"})


_VERSIONS_ARE_OURS: LiteralString = """
SELECT (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND (a.attname, a.atttypid) IN (('version', 'int4'::regtype), ('upgraded_at', 'timestamptz'::regtype))) = 2
FROM pg_class c WHERE c.oid = to_regclass('migration.schema_versions') AND c.relkind = 'r'
"""
# Sessions that have looked already: each looks once.
_LOOKED: WeakSet[Connected] = WeakSet()


@dataclass(frozen=True)
class OwnSchema:
    """What was found in schema `migration` of one side.

    Attributes:
        collisions: Foreign objects that have a name which this program needs.
        untrusted: Objects through which a role that is neither ours nor a superuser could run its statements as our
            role: each in words, with the statement that removes the danger.
        meddlers: Roles that are neither ours nor superusers, and what each may do to the schema and its tables.
        others: Other foreign objects, which stay as they are.
        missing_right: Our role, if the schema exists and our role may not use it or create objects in it.
        unreadable: Our role, if there is a ledger that it may not read.
        made: The objects of an unreadable ledger: kind and name.
    """

    collisions: tuple[str, ...] = ()
    untrusted: tuple[tuple[str, str], ...] = ()
    meddlers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    others: tuple[str, ...] = ()
    missing_right: str | None = None
    unreadable: str | None = None
    made: tuple[str, ...] = ()


def _places(connection: Connected) -> list[tuple[Any, ...]]:
    """Kind, name, owner, whether that owner is trusted, comment, text and columns of everything in the schema."""
    return connection.execute(TRUSTED + _PLACES).fetchall()


def _untrusted(connection: Connected) -> list[tuple[str, str]]:
    """Describe it, with the statement that mends it."""
    names = ledger_names() | set(_TABLES)
    functions = {name.partition("(")[0] for name in names | _FUNCTIONS if "(" in name}
    return connection.execute(
        TRUSTED + UNTRUSTED, {"names": sorted(names - _FUNCTIONS), "functions": sorted(functions)}
    ).fetchall()


def require_trusted(connection: Connected) -> None:
    """Require that nobody else's statements run as our role when this session reads or writes anything of ours.

    Call it before a session reads or writes anything of ours. It reads only the catalogue, once for each session.

    Raises:
        ForeignObjectError: Another role could run its statements as ours; the error says through which object.
        LedgerError: The schema was renamed.
    """
    if connection in _LOOKED:
        return
    ours = connection.execute(ALL_OURS).fetchone()
    found: list[tuple[str, str]] = []
    if ours is None or not ours[0]:
        require_not_renamed(connection)
        found = _untrusted(connection)
    if found:
        raise ForeignObjectError(
            "a role that is neither ours nor a superuser could have its statements run as our role: "
            + "; ".join(what for what, _ in found),
            where=in_own_schema(connection, "schema migration"),
            state_left="nothing was read from it, and nothing was changed",
            next_step="as a superuser: "
            + " ".join(dict.fromkeys(remedy for _, remedy in found))
            + " -- or, if that role belongs to your own team: GRANT it TO the role that this program uses",
        )
    _LOOKED.add(connection)


def ledger_has(base: Connected, table: str) -> bool:
    """Whether there is a ledger that is new enough to have this table.

    Raises:
        ForeignObjectError: As in `require_trusted`.
    """
    row = base.execute("SELECT to_regclass(%s) IS NOT NULL", [in_own_schema(base, f"migration.{table}")]).fetchone()
    if not require_row(row, "to_regclass")[0]:
        return False
    require_trusted(base)
    return True


def read_own_schema(connection: Connected, side: Side) -> OwnSchema:
    """Examine everything in the schema; on the base the tables of the ledger's present version count as ours."""
    schema = own_schema(connection)
    role, usable, creating = require_row(connection.execute(_RIGHTS).fetchone(), "our role")
    if not usable:
        return OwnSchema(missing_right=role)  # without the right to use it the ledger's version cannot be read
    untrusted = _untrusted(connection)
    if side == "base" and not untrusted and not may_read_ledger(connection):
        names, kinds = ledger_names(), {"table", "sequence", "function"}
        places = [(kind, name) for kind, name, *_ in _places(connection) if name in names and kind in kinds]
        return OwnSchema(unreadable=role, made=tuple(f"{kind} {schema}.{name}" for kind, name in places))
    # A ledger that must not be read cannot say which version it has.
    readable = side == "base" and not untrusted
    to_come = ledger_names(after=ledger_version(connection)) if readable else frozenset[str]()
    made = (ledger_names() - to_come) if readable else frozenset[str]()
    collisions: list[str] = []
    others: list[str] = []
    for kind, name, owner, _, comment, text, columns in _places(connection):
        known = name in _TABLES or name in _FUNCTIONS
        if name in made or (known and _is_ours(name, comment, text, columns)):
            continue
        if known or name in to_come:
            collisions.append(f"{kind} {schema}.{name} of {owner}")
        elif kind in _LISTED and side == "legacy":
            others.append(f"{kind} {name} of {owner}")
    names = sorted((ledger_names() | set(_TABLES)) - _FUNCTIONS)
    meddlers = tuple(
        (str(who), tuple(may))
        for who, may in connection.execute(TRUSTED + _MEDDLERS, {"names": names, "owns": OWNS, "creates": CREATES})
    )
    return OwnSchema(tuple(collisions), tuple(untrusted), meddlers, tuple(others), None if creating else role)


@dataclass(frozen=True)
class QuarantineSchema:
    """Look at the schema of quarantine, where leaves lie that have left the root.

    Attributes:
        owner: Its owner, who may drop everything in it, if that is neither our role nor a superuser.
        missing_right: Our role, if it may not create objects there.
        strangers: Tables and views that no retirement in the ledger has put there.
    """

    owner: str | None
    missing_right: str | None
    strangers: tuple[str, ...]


def read_quarantine(base: Connected) -> QuarantineSchema:
    """Look at the schema as it is now; one that does not exist yet will be ours."""
    ours: list[str] = []
    if "retirements" in ledger_names() - ledger_names(after=ledger_version(base)):
        ours = [
            str(row[0])
            for row in base.execute(
                "SELECT s.leaf FROM migration.retirements r JOIN migration.slices s USING (relation, quarter, week)"
                " WHERE r.step = 'quarantined'"
            )
        ]
    row = base.execute(TRUSTED + _QUARANTINE, {"ours": ours, "schema": own_quarantine(base)}).fetchone()
    if row is None:
        return QuarantineSchema(None, None, ())
    owner, trusted, missing, strangers = row
    return QuarantineSchema(None if trusted else owner, missing, tuple(strangers))


def require_no_collision(connection: Connected, names: Collection[str]) -> None:
    """Require, before something of these names is made, replaced or used, that it is ours or not there.

    Raises:
        ForeignObjectError: One of them is not ours, or could run another role's statements as our role; nothing was
            changed.
    """
    require_trusted(connection)
    found = [
        f"{kind} {own_schema(connection)}.{name} of {owner}"
        for kind, name, owner, _, comment, text, columns in _places(connection)
        if name in names and not _is_ours(name, comment, text, columns)
    ]
    if found:
        raise foreign_object(connection, found)


def foreign_object(connection: Connected, found: Collection[str]) -> ForeignObjectError:
    """The error that refuses them."""
    return ForeignObjectError(
        f"somebody else's objects have names that this program needs: {', '.join(found)}",
        where=in_own_schema(connection, "schema migration"),
        state_left="they are unchanged, and nothing was created",
        next_step=how_to_move(connection),
    )


def how_to_move(connection: Connected) -> str:
    """The advice about objects of others that have names of ours."""
    return in_own_schema(
        connection,
        "rename them, or move them away (ALTER TABLE migration.… SET SCHEMA …; ALTER FUNCTION migration.…() SET SCHEMA"
        " …; views, triggers and keys that use them follow by themselves, texts of functions and applications do not);"
        " or, before the migration has begun, give this program another schema (MIGRATION_OWN_SCHEMA)",
    )


def is_ours(connection: Connected, name: str) -> bool:
    """Whether schema `migration` has a table, sequence or function of that name, and this program made it."""
    return any(
        found == name and _is_ours(name, comment, text, columns)
        for _, found, _, _, comment, text, columns in _places(connection)
    )


def drop_own_objects(connection: Connected) -> None:
    """Drop everything that this program created in the legacy's schema; foreign objects stay."""
    kinds = {"table": "TABLE", "sequence": "SEQUENCE", "function": "FUNCTION"}
    ours = [
        (kind, name)
        for kind, name, _, _, comment, text, columns in _places(connection)
        if kind in kinds and (name in _TABLES or name in _FUNCTIONS) and _is_ours(name, comment, text, columns)
    ]
    for kind, name in sorted(ours, reverse=True):  # tables go first, since their triggers use the functions
        connection.execute(own_sql(connection, f"DROP {kinds[kind]} migration.{name}"))


def own_trigger_functions(connection: Connected) -> list[str]:
    """The existing functions of our triggers, in the form that `to_regprocedure` reads."""
    return [
        f"{own_schema(connection)}.{name}"
        for _, name, _, _, comment, text, columns in _places(connection)
        if name in _FUNCTIONS and name.endswith("()") and _is_ours(name, comment, text, columns)
    ]


def _is_ours(name: str, comment: str, text: str, columns: Mapping[str, str] | None) -> bool:
    if comment.startswith(TAG):
        return True
    if name in _FUNCTIONS:
        return any(said in text for said in _OUR_TEXT)
    wanted = _TABLES.get(name)
    return wanted is not None and columns is not None and wanted.items() <= columns.items()


def may_read_ledger(connection: Connected) -> bool:
    """Whether our role may read the ledger; also true if there is none."""
    row = connection.execute(
        "SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') FROM pg_namespace n"
        " JOIN pg_class c ON c.relnamespace = n.oid WHERE n.nspname = 'migration' AND c.relname = 'schema_versions'"
    ).fetchone()
    return row is None or bool(row[0])


def ledger_version(connection: Connected) -> int:
    """The ledger's version; 0 where there is no ledger, or where a table of its name is somebody else's."""
    ours = connection.execute(_VERSIONS_ARE_OURS).fetchone()
    if ours is None or not ours[0]:
        return 0
    require_trusted(connection)
    row = connection.execute("SELECT coalesce(max(version), 0) FROM migration.schema_versions").fetchone()
    return int(require_row(row, "the version")[0])


@cache
def ledger_steps() -> tuple[str, ...]:
    """The statements of every version of the ledger, in order."""
    text = files("migration_assets.ledger").joinpath("ledger.sql").read_text()
    parts = re.split(r"^-- version (\d+)$", text, flags=re.MULTILINE)[1:]
    numbers, bodies = parts[::2], parts[1::2]
    if [int(number) for number in numbers] != list(range(1, len(bodies) + 1)):
        raise ValueError(f"ledger.sql does not number its versions 1..n: {numbers}")
    return tuple(bodies)


@cache
def ledger_names(after: int = 0) -> frozenset[str]:
    """Tables, sequences and functions that the ledger's versions after `after` create."""
    made: list[str] = re.findall(
        r"^CREATE (?:UNLOGGED TABLE|TABLE|SEQUENCE|FUNCTION) migration\.(\w+(?:\(\))?)",
        "\n".join(ledger_steps()[after:]),
        re.MULTILINE,
    )
    return frozenset(made if after else [*made, "schema_versions"])
