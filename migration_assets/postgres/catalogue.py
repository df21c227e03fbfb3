"""Reads a table's description from a server's catalogue, and how much each leaf was changed."""

from collections.abc import Collection
from collections.abc import Sequence as Names
from importlib.resources import files
from typing import Any

from psycopg import sql

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.table_description import (
    Check,
    Column,
    Drawn,
    Hashing,
    Index,
    Sequence,
    SequenceUse,
    TableDescription,
)
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.domain.user_types import Collation, Extension, Field, UserType
from migration_assets.postgres.own_schema import ON_TABLES
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql

_FIRST_USER_OID = 16384
# Types whose own hash is a hash of all their bytes: two different values have different hash input. Not here, on
# purpose: 8-byte integers and timestamps (their hash folds both halves by XOR: 1 and 2**32 hash alike), numeric
# (1.0 and 1.00), floats (0 and -0), interval ('1 day' and '24:00'), char(n), jsonb, and all containers.
_NATIVE = frozenset({"boolean", "smallint", "integer", "date", "uuid", "bytea", '"char"', "oid"})
_NATIVE_TEXT = frozenset({"text", "character varying", "name"})
# Types that cannot be copied in binary form. tsquery: receiving refuses the empty value that sending wrote. The others
# send object ids, which mean something else in every database.
_TEXT_ONLY = frozenset({
    "tsquery",
    "regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype", "regconfig", "regdictionary",
    "regnamespace", "regrole", "regcollation", "regdatabase",
})  # fmt: skip
_SURENESS = (Drawn.IDENTITY, Drawn.DEFAULT, Drawn.FUNCTION, Drawn.TRIGGER, Drawn.OWNED)
_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}


def relation_oid(connection: Connected, table: QualifiedName) -> int | None:
    """The oid of a relation, or None where it does not exist."""
    row = connection.execute(
        "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        [table.schema, table.name],
    ).fetchone()
    return None if row is None else int(row[0])


def describe_table(connection: Connected, table: QualifiedName) -> TableDescription | None:
    """Describe the table from the catalogue; None where it does not exist."""
    oid = relation_oid(connection, table)
    return None if oid is None else _describe(connection, table, oid)


def describe_types(connection: Connected, types: Names[str], collations: Names[str]) -> TableDescription:
    """Describe the types and collations of these names that the server has.

    They are read as the columns of a temporary table, which is rolled back. Names that the server does not have are
    left out.
    """
    with connection.transaction(force_rollback=True):
        columns = [
            raw_sql(f"c{number} {name}")
            for number, name in enumerate(types)
            if connection.execute("SELECT to_regtype(%s)", [name]).fetchone() != (None,)
        ]
        columns += [
            raw_sql(f"t{number} text COLLATE {name}")
            for number, name in enumerate(collations)
            if connection.execute("SELECT to_regcollation(%s)", [name]).fetchone() != (None,)
        ]
        connection.execute(sql.SQL("CREATE TEMPORARY TABLE of_types ({})").format(sql.SQL(", ").join(columns)))
        row = connection.execute("SELECT 'pg_temp.of_types'::regclass::oid::bigint").fetchone()
        return _describe(connection, QualifiedName("pg_temp", "of_types"), int(require_row(row, "a table")[0]))


def require_table(connection: Connected, table: QualifiedName, side: str) -> TableDescription:
    """Describe the table, which must exist.

    Args:
        connection: To the side.
        table: Its name.
        side: `legacy` or `base`, for the error.

    Raises:
        TableSpecError: There is no such table; the error names tables whose names differ in case only.
    """
    description = describe_table(connection, table)
    if description is not None:
        return description
    alike = [
        str(QualifiedName(*row))
        for row in connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE lower(tablename) = lower(%s) LIMIT 5", [table.name]
        )
    ]
    hint = f" (there is {', '.join(alike)})" if alike else ""
    raise TableSpecError(
        f"the table does not exist in the {side}{hint}",
        where=str(table),
        state_left="nothing was touched",
        next_step="set MIGRATION_TABLE, quoted as in SQL"
        if side == "legacy"
        else "materialize quarter_partitions, which creates it from the legacy's catalogue",
    )


def _describe(connection: Connected, table: QualifiedName, oid: int) -> TableDescription:
    raw, used = _read(connection, oid)
    types: dict[int, dict[str, Any]] = {entry["oid"]: entry for entry in used.get("types", raw["types"]) or ()}
    drawn = _drawn([*(raw["sequences"] or ()), *(used.get("draws") or ())])
    uses = tuple(SequenceUse(one["name"], one["column"], Drawn(one["how"]), one.get("via", "")) for one in drawn)
    named = {one.column: one.sequence for one in reversed(uses) if one.how in {Drawn.IDENTITY, Drawn.DEFAULT}}
    return TableDescription(
        table=table,
        kind=raw["kind"],
        comment=raw["comment"],
        columns=tuple(_column(entry, types, named.get(entry["name"])) for entry in raw["columns"] or ()),
        primary_key=tuple(raw["primary_key"] or ()),
        primary_key_name=raw["primary_key_name"] or "",
        primary_key_deferral=raw["primary_key_deferral"] or "",
        # An index without a definition was dropped after the snapshot in which the catalogue is read.
        indexes=tuple(_index(entry, table) for entry in raw["indexes"] or () if entry["definition"] is not None),
        checks=tuple(Check(c["name"], c["definition"], c["comment"]) for c in raw["checks"] or ()),
        types=tuple(_user_type(entry, types) for entry in _in_creation_order(types)),
        collations=tuple(Collation(**entry) for entry in used.get("collations") or ()),
        sequences=tuple({one["name"]: _sequence(one) for one in drawn}.values()),
        sequence_uses=uses,
        unknown_draws=tuple(used.get("unknown_draws") or ()),
    )


def _read(connection: Connected, oid: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the table's own entry and, where it uses more than the system's types, what it uses; both of one moment."""
    raw = _row(connection, _text("introspection.sql"), oid)
    if not raw["uses_more"]:
        return raw, {}
    # Both in one statement: between two, the table could be altered, and we would describe one that never existed.
    parts = (_text("introspection.sql"), _text("introspection_used.sql"))
    raw, used = _row(connection, "SELECT json_build_array(({}\n), ({}\n))".format(*parts), oid)
    return require_row(raw and (raw,), "the description of a table")[0], used


def _text(name: str) -> str:
    return files("migration_assets.postgres").joinpath(name).read_text()


def _row(connection: Connected, statement: str, oid: int) -> Any:
    row = connection.execute(statement.encode(), {"oid": oid, "ours": list(ON_TABLES)}).fetchone()
    return require_row(row, "the description of a table")[0]


def _drawn(entries: Names[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the surest evidence for each sequence and column: a dependency counts for more than a name in a text."""
    ordered = sorted(entries, key=lambda one: (one["attnum"], _SURENESS.index(one["how"]), one["name"]))
    surest: dict[tuple[str, int], dict[str, Any]] = {}
    for one in ordered:
        surest.setdefault((one["name"], one["attnum"]), one)
    return list(surest.values())


def _sequence(entry: dict[str, Any]) -> Sequence:
    of: dict[str, Any] = entry["options"]
    return Sequence(
        entry["name"],
        entry["type_name"],
        f"INCREMENT BY {of['seqincrement']} MINVALUE {of['seqmin']} MAXVALUE {of['seqmax']}"
        f" START WITH {of['seqstart']} CACHE {of['seqcache']} {'CYCLE' if of['seqcycle'] else 'NO CYCLE'}",
    )


def _column(entry: dict[str, Any], types: dict[int, dict[str, Any]], sequence: str | None) -> Column:
    base, base_type = types[int(entry["type"])], entry["type_name"]
    while base["kind"] == "d":
        base, base_type = types[base["base"]], base["base_name"]
    portable = _is_portable(base, types)
    if portable and (base["name"] in _NATIVE or (base["name"] in _NATIVE_TEXT and entry["deterministic"])):
        hashing = Hashing.NATIVE
    elif portable and base["name"] != "xml" and not (base["kind"] == "e" and base["oid"] != entry["type"]):
        # An enum is sent as its label, whatever its object id is; but enum_send takes no domain over one.
        hashing = Hashing.SEND
    else:
        hashing = Hashing.TEXT
    return Column(
        name=entry["name"],
        type_name=entry["type_name"],
        base_type=base_type,
        not_null=entry["not_null"],
        hashing=hashing,
        binary_copy=portable,
        send_function=base["send"] if hashing is Hashing.SEND else None,
        default=entry["expression"] or entry["default"],
        generated=entry["generated"] or "",
        identity=entry["identity"] or "",
        collation=entry["collation"],
        storage=_STORAGE[entry["storage"]] if entry["storage"] else None,
        compression=_COMPRESSION.get(entry["compression"]) if entry["compression"] else None,
        comment=entry["comment"],
        default_sequence=sequence,
    )


def _is_portable(entry: dict[str, Any], types: dict[int, dict[str, Any]]) -> bool:
    """Whether the type's binary form means the same in another database: it holds no object id of a user's type."""
    if entry["kind"] == "d":
        return _is_portable(types[entry["base"]], types)
    if entry["kind"] == "e":
        return True  # sent as its label
    if entry["oid"] >= _FIRST_USER_OID or entry["name"] in _TEXT_ONLY or not (entry["send"] and entry["receives"]):
        return False
    inner = entry["element"] or entry["subtype"]
    # An array's binary form holds the oid of its element type: only those of built-in types are equal everywhere.
    return not inner or (inner < _FIRST_USER_OID and _is_portable(types[inner], types))


def _index(entry: dict[str, Any], table: QualifiedName) -> Index:
    if not entry["definition"].startswith(entry["prefix"]):
        raise TableSpecError(
            f"the definition of index {entry['name']!r} cannot be read: {entry['definition']}",
            where=str(table),
            next_step="report this with the definition",
        )
    return Index(
        name=entry["name"],
        unique=entry["unique"],
        tail="USING " + entry["definition"].removeprefix(entry["prefix"]),
        valid=entry["valid"],
        key_columns=tuple(entry["key_columns"] or ()),
        constraint=entry["constraint"] or "",
        comment=entry["comment"],
    )


def _in_creation_order(types: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The user's types without arrays, each after the types that it is made of."""
    ordered: dict[int, dict[str, Any]] = {}

    def visit(entry: dict[str, Any]) -> None:
        for part in _parts(entry):
            visit(types[part])
        if entry["oid"] >= _FIRST_USER_OID and not _is_array(entry):
            ordered.setdefault(entry["oid"], entry)

    for entry in types.values():
        visit(entry)
    return list(ordered.values())


def _is_array(entry: dict[str, Any]) -> bool:
    return bool(entry["element"]) and entry["kind"] == "b"


def _parts(entry: dict[str, Any]) -> list[int]:
    parts = [entry["base"], entry["element"], entry["subtype"], *(field["type"] for field in entry["fields"] or ())]
    if entry["kind"] == "m":
        parts.append(entry["range"]["range"])
    return [part for part in parts if part]


def _used(entry: dict[str, Any], types: dict[int, dict[str, Any]]) -> set[str]:
    """Names of the user's types that a type is made of; for an array those of its elements."""
    names: set[str] = set()
    for part in _parts(entry):
        inner = types[part]
        if inner["oid"] >= _FIRST_USER_OID and not _is_array(inner):
            names.add(inner["name"])
        elif _is_array(inner):
            names |= _used(inner, types)
    return names


def _user_type(entry: dict[str, Any], types: dict[int, dict[str, Any]]) -> UserType:
    fields = tuple(Field(f["name"], f["type_name"], f["collation"]) for f in entry["fields"] or ())
    span: dict[str, Any] = entry["range"] or {}
    named: list[str | None] = [entry["collation"], span.get("collation"), *(field.collation for field in fields)]
    definition = {"d": _domain_definition, "r": _range_definition}.get(entry["kind"])
    return UserType(
        name=entry["name"],
        kind=entry["kind"],
        labels=tuple(entry["labels"] or ()),
        definition=definition(entry) if definition else "",
        base=entry["base_name"] or span.get("subtype") or "",
        fields=fields,
        uses=tuple(sorted(_used(entry, types))),
        collations=tuple(name for name in named if name),
        before=(f"{span['subtype_diff_definition'].rstrip()};",) if span.get("subtype_diff_definition") else (),
        extension=Extension(entry["extension"]["name"], entry["extension"]["schema"]) if entry["extension"] else None,
        of_table=entry["of_table"],
        comment=entry["comment"],
    )


def _domain_definition(entry: dict[str, Any]) -> str:
    parts = [entry["base_name"]]
    if entry["collation"]:
        parts.append(f"COLLATE {entry['collation']}")
    if entry["default"] is not None:
        parts.append(f"DEFAULT {entry['default']}")
    if entry["not_null"]:
        parts.append("NOT NULL")
    parts.extend(entry["checks"] or ())
    return " ".join(parts)


def _range_definition(entry: dict[str, Any]) -> str:
    span = entry["range"]
    options = {
        "SUBTYPE": span["subtype"],
        "SUBTYPE_OPCLASS": span["opclass"],
        "COLLATION": span["collation"],
        "CANONICAL": span["canonical"],
        "SUBTYPE_DIFF": span["subtype_diff"],
        "MULTIRANGE_TYPE_NAME": span["multirange"],
    }
    return ", ".join(f"{name} = {value}" for name, value in options.items() if value)


def changes_by_leaf(base: Connected, root: QualifiedName, leaves: Collection[str]) -> dict[str, int]:
    """Count the row changes of each leaf since it was made, or since the server's last crash.

    Args:
        base: To the base.
        root: The root, in whose schema the leaves are.
        leaves: Their names.

    Returns:
        Row changes by leaf, some seconds behind. A leaf that does not exist is missing.
    """
    rows = base.execute(
        "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_all_tables"
        " WHERE schemaname = %s AND relname = ANY(%s)",
        [root.schema, list(leaves)],
    )
    return {str(leaf): int(changes) for leaf, changes in rows}
