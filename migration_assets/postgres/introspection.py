"""Reads a table's description from a server's catalogue."""

from importlib.resources import files
from typing import Any

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.table_description import (
    Check,
    Column,
    Hashing,
    Index,
    Sequence,
    TableDescription,
    UserType,
)
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.sessions import Connected, require_row

_FIRST_USER_OID = 16384
# Types whose own hash is a hash of all their bytes: two different values have different hash input. Not here, on
# purpose: 8-byte integers and timestamps (their hash folds both halves by XOR: 1 and 2**32 hash alike), numeric
# (1.0 and 1.00), floats (0 and -0), interval ('1 day' and '24:00'), char(n), jsonb, and all containers.
_NATIVE = frozenset({"boolean", "smallint", "integer", "date", "uuid", "bytea", '"char"', "oid"})
_NATIVE_TEXT = frozenset({"text", "character varying", "name"})
# Their binary form cannot be carried. tsquery: receiving refuses the empty one that sending wrote. The others: their
# bytes are object ids, which mean something else in every database.
_TEXT_ONLY = frozenset({
    "tsquery",
    "regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype", "regconfig", "regdictionary",
    "regnamespace", "regrole", "regcollation", "regdatabase",
})  # fmt: skip
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
    """What the catalogue says of the table, or None where it does not exist."""
    oid = relation_oid(connection, table)
    return None if oid is None else _describe(connection, table, oid)


def require_table(connection: Connected, table: QualifiedName, side: str) -> TableDescription:
    """As `describe_table`.

    Raises:
        TableSpecError: There is no such table; names tables that may have been meant.
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
    statement = files("migration_assets.postgres").joinpath("introspection.sql").read_text()
    raw: dict[str, Any] = require_row(
        connection.execute(statement.encode(), {"oid": oid}).fetchone(), "the description of a table"
    )[0]
    types = {entry["oid"]: entry for entry in raw["types"] or ()}
    sequences = {entry["attnum"]: entry["name"] for entry in raw["sequences"] or ()}
    return TableDescription(
        table=table,
        kind=raw["kind"],
        comment=raw["comment"],
        columns=tuple(_column(entry, types, sequences.get(entry["attnum"])) for entry in raw["columns"] or ()),
        primary_key=tuple(raw["primary_key"] or ()),
        indexes=tuple(_index(entry, table) for entry in raw["indexes"] or ()),
        checks=tuple(Check(c["name"], c["definition"], c["comment"]) for c in raw["checks"] or ()),
        types=tuple(_user_type(entry) for entry in _in_creation_order(types)),
        sequences=tuple(
            {s["name"]: Sequence(s["name"], s["type_name"], s["options"]) for s in raw["sequences"] or ()}.values()
        ),
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
    """Whether the type's binary form means the same in another database: no object id of a user's type inside."""
    if entry["kind"] == "d":
        return _is_portable(types[entry["base"]], types)
    if entry["kind"] == "e":
        return True  # sent as its label
    if entry["oid"] >= _FIRST_USER_OID or entry["name"] in _TEXT_ONLY or not (entry["send"] and entry["receives"]):
        return False
    inner = entry["element"] or entry["subtype"]
    # An array's binary form holds the oid of its element type, so that only the system's own may stand there.
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
        comment=entry["comment"],
    )


def _in_creation_order(types: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The user's types that are not arrays, each after those it is made of."""
    ordered: dict[int, dict[str, Any]] = {}

    def visit(entry: dict[str, Any]) -> None:
        for part in (entry["base"], entry["element"], entry["subtype"]):
            if part:
                visit(types[part])
        is_array = bool(entry["element"]) and entry["kind"] == "b"
        if entry["oid"] >= _FIRST_USER_OID and not is_array:
            ordered.setdefault(entry["oid"], entry)

    for entry in types.values():
        visit(entry)
    return list(ordered.values())


def _user_type(entry: dict[str, Any]) -> UserType:
    definition = ""
    if entry["kind"] == "d":
        parts = [entry["base_name"]]
        if entry["collation"]:
            parts.append(f"COLLATE {entry['collation']}")
        if entry["default"] is not None:
            parts.append(f"DEFAULT {entry['default']}")
        if entry["not_null"]:
            parts.append("NOT NULL")
        parts.extend(entry["checks"] or ())
        definition = " ".join(parts)
    return UserType(
        name=entry["name"],
        kind=entry["kind"],
        labels=tuple(entry["labels"] or ()),
        definition=definition,
        comment=entry["comment"],
    )
