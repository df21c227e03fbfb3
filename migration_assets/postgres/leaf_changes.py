"""How much a leaf was changed, by the server's own statistics."""

from collections.abc import Collection

from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.sessions import Connected


def changes_by_leaf(base: Connected, root: QualifiedName, leaves: Collection[str]) -> dict[str, int]:
    """Leaf → row changes it has seen since it was made, or since the server's last crash; seconds late.

    Leaves lie in the schema of their root; one that is not there is not in the answer.
    """
    rows = base.execute(
        "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_all_tables"
        " WHERE schemaname = %s AND relname = ANY(%s)",
        [root.schema, list(leaves)],
    )
    return {str(leaf): int(changes) for leaf, changes in rows}
