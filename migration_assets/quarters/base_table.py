"""Makes the partitioned root in the base, with its types and sequences, like the legacy's table."""

import hashlib

import psycopg
from psycopg import sql

from migration_assets.domain.errors import PartitionError
from migration_assets.domain.table_description import Column, Drawn, Index, TableDescription, column_differences
from migration_assets.domain.table_spec import MAX_IDENTIFIER_BYTES, QualifiedName, TableSpec, parse_identifiers
from migration_assets.domain.user_types import UserType
from migration_assets.postgres.catalogue import describe_table
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import raw_sql, table_name

_IDENTITY_ON_PARTITIONED = 170000
_HASH_DIGITS = 16
_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}


def ensure_root(connection: Connected, legacy: TableDescription, spec: TableSpec) -> TableDescription:
    """Create the root, its types and its sequences where the root is missing, and check it against the legacy.

    Args:
        connection: To the base, in the transaction that is to hold the changes.
        legacy: The description of the legacy's table.
        spec: Table and control column.

    Returns:
        The root as the base's catalogue describes it.

    Raises:
        PartitionError: A table of that name exists and does not fit, or the table needs something that only the legacy
            has, or a right that our role lacks.
    """
    existing = describe_table(connection, spec.table)
    if existing is None:
        try:
            _create_schemas(connection, legacy)
            _create_sequences(connection, legacy)  # a domain's default may draw from one
            for user_type in legacy.types:
                _ensure_type(connection, user_type)
            _create_root(connection, legacy, spec)
        except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
            # It needs a function, collation or operator class that only the legacy has, or our role lacks a right.
            raise PartitionError(
                f"the base's table cannot be made like the legacy's: {told(error)}",
                where=f"{spec.relation} in the base",
                state_left="nothing was changed",
                next_step="create in the base what the error names (functions and collations are not copied), or grant"
                " the right, then run this again",
            ) from error
        existing = describe_table(connection, spec.table)
        if existing is None:
            raise PartitionError("the root was created and cannot be found", where=spec.relation)
    require_root(connection, existing, legacy, spec)
    return existing


def require_root(connection: Connected, root: TableDescription, legacy: TableDescription, spec: TableSpec) -> None:
    """Require that the root can take the legacy's rows.

    Raises:
        PartitionError: Not partitioned by range over the control column, with a default partition, or other columns.
    """

    def refuse(what: str, next_step: str) -> PartitionError:
        return PartitionError(
            what, where=f"{spec.relation} in the base", state_left="nothing was changed", next_step=next_step
        )

    if root.kind != "p":
        raise refuse(
            "a table of this name exists and is not partitioned",
            "rename it, or point MIGRATION_BASE_URL at a database without it",
        )
    row = connection.execute(
        "SELECT p.partstrat, p.partdefid <> 0, p.partnatts, a.attname FROM pg_partitioned_table p"
        " JOIN pg_class c ON c.oid = p.partrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]"
        " WHERE n.nspname = %s AND c.relname = %s",
        [spec.table.schema, spec.table.name],
    ).fetchone()
    if row is None or row[0] != "r" or row[2] != 1 or row[3] != spec.control_column:
        raise refuse(f"it is not partitioned by range over {spec.control_column!r} alone", "use another base database")
    if row[1]:
        raise refuse(
            "it has a default partition, which every ATTACH would scan under an exclusive lock",
            "move its rows and drop it",
        )
    differences = column_differences(legacy, root)
    if differences:
        raise refuse(
            "its columns differ from the legacy's: " + "; ".join(differences),
            "alter the base's table so that it matches, then run this again",
        )


def like_root(spec: TableSpec) -> sql.Composed:
    """The LIKE clause of a partition: all but indexes (built after the load) and identity (ATTACH refuses it)."""
    return sql.SQL(
        "LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION"
    ).format(table_name(spec.table))


def add_keys_and_indexes(connection: Connected, table: QualifiedName, root: TableDescription, spec: TableSpec) -> int:
    """Build primary key and secondary indexes on a loaded leaf, so that ATTACH adopts them for the root's indexes.

    The root's definitions are used: the legacy may have got other indexes since the root was made.

    Args:
        connection: To the base.
        table: The leaf.
        root: The root's description.
        spec: Table and control column.

    Returns:
        How many indexes the leaf now has.
    """
    name = table_name(table)
    connection.execute(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY ({}) {}").format(
            name,
            sql.Identifier(leaf_index_name(table.name, "pkey")),
            _names(root.primary_key),
            raw_sql(root.primary_key_deferral),
        )
    )
    for index in root.indexes:
        index_name = leaf_index_name(table.name, index.name.removeprefix(f"{root.table.name}_"))
        connection.execute(_index_statement(index, name, spec.control_column, index_name=index_name))
    give_identity(connection, table, root.primary_key_deferral)
    return 1 + len(root.indexes)


def give_identity(connection: Connected, table: QualifiedName, deferral: str) -> None:
    """Set REPLICA IDENTITY FULL where the key is deferrable (`deferral` not empty) and so cannot be the identity."""
    if deferral:
        connection.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(table_name(table)))


def leaf_index_name(leaf: str, suffix: str) -> str:
    """The name of a leaf's index, such as `amenity_bookings_fy25_q2_w05_pkey`: at most 63 bytes, unique in its schema.

    PostgreSQL's own choice could collide: it looks for a free name in the schema where the leaf is loaded, not in the
    one that the leaf moves to; and it cuts long names before the week, so that two leaves could get the same name.
    """
    whole = f"{leaf}_{suffix}".encode()
    if len(whole) <= MAX_IDENTIFIER_BYTES:
        return whole.decode()
    digest = hashlib.sha256(whole).hexdigest()[:_HASH_DIGITS]
    return f"{whole[: MAX_IDENTIFIER_BYTES - _HASH_DIGITS - 1].decode(errors='ignore')}_{digest}"


def carried_indexes(legacy: TableDescription) -> tuple[Index, ...]:
    """The legacy's indexes that the base gets: all but invalid ones, left by a failed CREATE INDEX CONCURRENTLY."""
    return tuple(index for index in legacy.indexes if index.valid)


def _create_schemas(connection: Connected, legacy: TableDescription) -> None:
    names = {legacy.table.schema}
    names |= {parse_identifiers(thing.name)[0] for thing in (*legacy.types, *legacy.sequences)}
    for name in sorted(names):
        exists = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [name]).fetchone()
        if exists is None:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def type_exists(connection: Connected, user_type: UserType) -> bool:
    """Whether the base has a type of that name."""
    row = connection.execute("SELECT to_regtype(%s) IS NOT NULL", [user_type.name]).fetchone()
    return bool(row and row[0])


def _ensure_type(connection: Connected, user_type: UserType) -> None:
    if type_exists(connection, user_type):
        return  # an enum that lacks labels is found by column_differences
    name = sql.Identifier(*parse_identifiers(user_type.name))
    if user_type.kind == "e":
        labels = sql.SQL(", ").join(sql.Literal(label) for label in user_type.labels)
        connection.execute(sql.SQL("CREATE TYPE {} AS ENUM ({})").format(name, labels))
        kind = sql.SQL("TYPE")
    elif user_type.kind == "d":
        connection.execute(sql.SQL("CREATE DOMAIN {} AS {}").format(name, raw_sql(user_type.definition)))
        kind = sql.SQL("DOMAIN")
    else:
        raise PartitionError(
            f"type {user_type.name} is not in the base and cannot be made from the catalogue alone",
            where="base",
            state_left="nothing was changed",
            next_step="create the extension or the type in the base, as preflight says",
        )
    _comment(connection, kind, name, user_type.comment)


def _made_by_identity(connection: Connected, legacy: TableDescription) -> set[str | None]:
    works = connection.info.server_version >= _IDENTITY_ON_PARTITIONED
    return {column.default_sequence for column in legacy.columns if column.identity and works}


def _create_sequences(connection: Connected, legacy: TableDescription) -> None:
    """Create every sequence that new rows use, except those that an identity column creates by itself."""
    of_identity = _made_by_identity(connection, legacy)
    for sequence in legacy.sequences:
        if sequence.name not in of_identity:
            connection.execute(
                sql.SQL("CREATE SEQUENCE IF NOT EXISTS {} AS {} {}").format(
                    sql.Identifier(*parse_identifiers(sequence.name)),
                    raw_sql(sequence.type_name),
                    raw_sql(sequence.options),
                )
            )


def _create_root(connection: Connected, legacy: TableDescription, spec: TableSpec) -> None:
    root = table_name(spec.table)
    identity_works = connection.info.server_version >= _IDENTITY_ON_PARTITIONED
    of_identity = _made_by_identity(connection, legacy)
    options = {sequence.name: sequence.options for sequence in legacy.sequences}
    parts = [_column_clause(column, options, identity_works=identity_works) for column in legacy.columns]
    parts += [
        sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(check.name), raw_sql(check.definition))
        for check in legacy.checks
    ]
    key = _names(legacy.base_primary_key(spec.control_column))
    parts.append(sql.SQL("PRIMARY KEY ({}) {}").format(key, raw_sql(legacy.primary_key_deferral)))
    connection.execute(
        sql.SQL("CREATE TABLE {} ({}) PARTITION BY RANGE ({})").format(
            root, sql.SQL(", ").join(parts), sql.Identifier(spec.control_column)
        )
    )
    for column in legacy.columns:
        if column.storage:
            connection.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET STORAGE {}").format(
                    root, sql.Identifier(column.name), raw_sql(column.storage)
                )
            )
    for use in legacy.sequence_uses:
        owned = use.column is not None and use.how in {Drawn.DEFAULT, Drawn.OWNED, Drawn.IDENTITY}
        # A default may use a sequence of another schema, but PostgreSQL lets no column own it.
        here = parse_identifiers(use.sequence)[0] == spec.table.schema
        if owned and here and use.column and use.sequence not in of_identity:
            connection.execute(
                sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(
                    sql.Identifier(*parse_identifiers(use.sequence)),
                    sql.Identifier(spec.table.schema, spec.table.name, use.column),
                )
            )
    for index in carried_indexes(legacy):
        connection.execute(_index_statement(index, root, spec.control_column, index_name=index.name))
        _comment(connection, sql.SQL("INDEX"), sql.Identifier(spec.table.schema, index.name), index.comment)
    give_identity(connection, spec.table, legacy.primary_key_deferral)
    _comment_on_parts(connection, legacy, root)


def _column_clause(column: Column, options: dict[str, str], *, identity_works: bool) -> sql.Composed:
    parts: list[sql.Composable] = [sql.Identifier(column.name), raw_sql(column.type_name)]
    if column.compression:
        parts.append(raw_sql(f"COMPRESSION {column.compression}"))
    if column.collation:
        parts.append(raw_sql(f"COLLATE {column.collation}"))
    sequence = column.default_sequence
    if column.is_generated:
        kind = "VIRTUAL" if column.is_virtual else "STORED"
        parts.append(raw_sql(f"GENERATED ALWAYS AS ({column.default}) {kind}"))
    elif column.identity and sequence and identity_works:
        parts.append(raw_sql(f"GENERATED {_IDENTITY[column.identity]} AS IDENTITY ({options[sequence]})"))
    elif column.identity and sequence:
        # Before PostgreSQL 17 a partitioned table cannot have identity columns: the sequence becomes a default.
        parts.append(sql.SQL("DEFAULT nextval({}::regclass)").format(sql.Literal(sequence)))
    elif column.default is not None:
        parts.append(raw_sql(f"DEFAULT {column.default}"))
    if column.not_null:
        parts.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(parts)


def _index_statement(index: Index, table: sql.Identifier, control_column: str, *, index_name: str) -> sql.Composed:
    unique = index.is_unique_with(control_column)
    if unique and index.deferrable:
        return sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
            table, sql.Identifier(index_name), raw_sql(index.deferrable)
        )
    return sql.SQL("CREATE {unique}INDEX {name} ON {table} {tail}").format(
        unique=sql.SQL("UNIQUE " if unique else ""),
        name=sql.Identifier(index_name),
        table=table,
        tail=raw_sql(index.tail),
    )


def _names(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)


def _comment_on_parts(connection: Connected, legacy: TableDescription, root: sql.Identifier) -> None:
    _comment(connection, sql.SQL("TABLE"), root, legacy.comment)
    for column in legacy.columns:
        name = sql.Identifier(legacy.table.schema, legacy.table.name, column.name)
        _comment(connection, sql.SQL("COLUMN"), name, column.comment)
    for check in legacy.checks:
        on_table = sql.SQL("{} ON {}").format(sql.Identifier(check.name), root)
        _comment(connection, sql.SQL("CONSTRAINT"), on_table, check.comment)


def _comment(connection: Connected, kind: sql.SQL, name: sql.Composable, comment: str | None) -> None:
    if comment is not None:
        connection.execute(sql.SQL("COMMENT ON {} {} IS {}").format(kind, name, sql.Literal(comment)))
