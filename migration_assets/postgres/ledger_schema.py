"""Creates and upgrades the ledger's own tables in the base."""

from migration_assets.domain.errors import LedgerError
from migration_assets.postgres.own_objects import foreign_object, ledger_steps, ledger_version, read_own_schema
from migration_assets.postgres.sessions import Connected
from migration_assets.postgres.sql_text import raw_sql

# Whoever upgrades holds it, so that two runs that start together do not race in CREATE.
_UPGRADE_LOCK = (71001, 0)


def ensure_ledger(connection: Connected) -> int:
    """Bring schema `migration` to this program's version; does nothing where it is already.

    Returns:
        The version.

    Raises:
        LedgerError: The ledger was written by a newer version of this program.
        ForeignObjectError: Something of somebody else's has a name that the ledger needs.
    """
    steps = ledger_steps()
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", _UPGRADE_LOCK)
        version = ledger_version(connection)
        if version > len(steps):
            raise LedgerError(
                f"the ledger has version {version}, this program knows {len(steps)}",
                where="schema migration in the base",
                state_left="nothing was touched",
                next_step="use the newer version of migration_assets that wrote it",
            )
        if version < len(steps):
            collisions = read_own_schema(connection, "base").collisions
            if collisions:
                raise foreign_object(collisions)
        if not version:
            connection.execute("CREATE SCHEMA IF NOT EXISTS migration")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migration.schema_versions ("
                " version integer PRIMARY KEY, upgraded_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
        for number in range(version + 1, len(steps) + 1):
            connection.execute(raw_sql(steps[number - 1]))
            connection.execute("INSERT INTO migration.schema_versions (version) VALUES (%s)", [number])
    return len(steps)
