"""Writes of our own (true-up, repair) into a table: they pass a hold and, like a stream's rows, fire no triggers.

An apply worker fires no ordinary trigger: no CASCADE or SET NULL of a key that points at the table, no trigger of an
application. A true-up or repair does what the stream should have done, so it must not fire them either. Otherwise the
repair of one changed row, which is a delete and an insert, would delete the rows of other tables that point at it.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from migration_assets.domain.errors import TriggersFireError
from migration_assets.domain.table_spec import QualifiedName, quote_identifier
from migration_assets.postgres.own_schema import ON_TABLES
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.quarters.fence_functions import let_through

# ENABLE ALWAYS triggers are left out, because a stream fires them, too; so are keys from the table, which only check. A
# partition's copy of a trigger counts only where its parent is not enabled. Rules apply to statements, not to a stream.
_FIRING = """
WITH tables AS (SELECT to_regclass(t)::oid AS oid FROM unnest(%(tables)s::text[]) t)
SELECT format('trigger %%I of %%s', g.tgname, g.tgrelid::regclass)
FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid JOIN pg_proc f ON f.oid = g.tgfoid
WHERE NOT g.tgisinternal AND g.tgenabled = 'O' AND g.tgtype & 12 <> 0
  AND (f.pronamespace IS DISTINCT FROM to_regnamespace('migration') OR f.proname <> ALL(%(ours)s))
  AND NOT EXISTS (SELECT FROM pg_trigger p WHERE p.oid = g.tgparentid AND p.tgenabled = 'O'
                  AND p.tgrelid IN (SELECT oid FROM tables))
UNION ALL
SELECT format('foreign key %%I of %%s', k.conname, k.conrelid::regclass)
FROM pg_constraint k JOIN tables t ON t.oid = k.confrelid
WHERE %(deleting)s AND k.contype = 'f' AND k.conparentid = 0
UNION ALL
SELECT format('rule %%I of %%s', w.rulename, w.ev_class::regclass)
FROM pg_rewrite w WHERE w.ev_class = to_regclass((%(tables)s::text[])[1]) AND w.ev_enabled = 'O'
  AND w.ev_type IN ('2', '3', '4')
ORDER BY 1
"""


@contextmanager
def own_writes(
    connection: Connected, tables: Sequence[QualifiedName], *, side: Side, deleting: bool = True
) -> Generator[None]:
    """Let the body's writes pass a hold and fire no trigger that an apply worker would not fire.

    Args:
        connection: In a transaction.
        tables: The table that the statements name, then the leaf that holds the rows.
        side: The side of these tables, for the error.
        deleting: Whether rows are deleted, even if they are inserted again: then keys that point at them fire.

    Raises:
        TriggersFireError: Our role may not suppress triggers, and some would fire; the error names them.
    """
    let_through(connection)
    if not _may_silence(connection):
        found = what_fires(connection, tables, deleting=deleting)
        if found:
            raise TriggersFireError(
                f"writing rows on the {side} would fire what a stream does not fire: {', '.join(found)}."
                " Our role may not suppress it",
                where=str(tables[0]),
                state_left="no row was changed",
                next_step=f"on the {side}, as a superuser: {grant_silence(connection)} then run this again",
            )
        yield
        return
    connection.execute("SELECT set_config('session_replication_role', 'replica', true)")
    yield
    # If the body fails, the setting ends with the transaction.
    connection.execute("SELECT set_config('session_replication_role', 'origin', true)")


def what_fires(connection: Connected, tables: Sequence[QualifiedName], *, deleting: bool = True) -> tuple[str, ...]:
    """The triggers, keys and rules that our writes would fire, by name; empty where our role may suppress them.

    Args:
        connection: To the side.
        tables: As for `own_writes`.
        deleting: As for `own_writes`.
    """
    if _may_silence(connection):
        return ()
    wanted = {"tables": [str(table) for table in tables], "deleting": deleting, "ours": list(ON_TABLES)}
    found = connection.execute(_FIRING, wanted)
    return tuple(str(row[0]) for row in found)


def grant_silence(connection: Connected) -> str:
    """The statement by which a superuser lets our role suppress triggers."""
    row = connection.execute("SELECT current_user::text").fetchone()
    role = quote_identifier(str(require_row(row, "the role")[0]))
    return f"GRANT SET ON PARAMETER session_replication_role TO {role};"


def _may_silence(connection: Connected) -> bool:
    row = connection.execute("SELECT has_parameter_privilege('session_replication_role', 'SET')").fetchone()
    return bool(require_row(row, "a privilege")[0])
