"""Reads all that hangs on a table from its server's catalogue; what it means stands in `domain/table_features`."""

from dataclasses import dataclass
from importlib.resources import files

from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.catalogue import relation_oid
from migration_assets.postgres.sessions import Connected
from migration_assets.quarters.fences import OUR_TRIGGERS
from migration_assets.stream.legacy_side import GUARD

# Triggers of ours hang on the table as well.
_OURS = (GUARD, *OUR_TRIGGERS)


@dataclass(frozen=True)
class Hanging:
    """One thing that hangs on the table.

    Attributes:
        kind: As in `domain/table_features`.
        name: The same on both sides for the same thing.
        shown: For people.
        statement: What makes it on the base; None where no statement alone does.
    """

    kind: str
    name: str
    shown: str
    statement: str | None


def read_features(connection: Connected, table: QualifiedName) -> list[Hanging]:
    """All of it; empty where there is no such table. Statements qualify every name, and run as they are."""
    oid = relation_oid(connection, table)
    if oid is None:
        return []
    query = files("migration_assets.preflight").joinpath("table_features.sql").read_text()
    with connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog")
        rows = connection.execute(query.encode(), {"oid": oid, "ours": list(_OURS)}).fetchall()
    return [Hanging(*row) for row in rows]
