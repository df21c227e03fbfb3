"""Creates and upgrades the ledger's own tables in the base."""

import re
from importlib.resources import files

from migration_assets.domain.errors import LedgerError
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql

# Whoever upgrades holds it, so that two runs that start together do not race in CREATE.
_UPGRADE_LOCK = (71001, 0)


def ensure_ledger(connection: Connected) -> int:
    """Bring schema `migration` to this program's version; does nothing where it is already.

    Returns:
        The version.

    Raises:
        LedgerError: The ledger was written by a newer version of this program.
    """
    steps = _steps()
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", _UPGRADE_LOCK)
        version = _version(connection)
        if version > len(steps):
            raise LedgerError(
                f"the ledger has version {version}, this program knows {len(steps)}",
                where="schema migration in the base",
                state_left="nothing was touched",
                next_step="use the newer version of migration_assets that wrote it",
            )
        for number in range(version + 1, len(steps) + 1):
            connection.execute(raw_sql(steps[number - 1]))
            connection.execute("INSERT INTO migration.schema_versions (version) VALUES (%s)", [number])
    return len(steps)


def _version(connection: Connected) -> int:
    # Asked first, because even CREATE … IF NOT EXISTS wants the right to create, which a later, weaker role lacks.
    exists = require_row(
        connection.execute("SELECT to_regclass('migration.schema_versions') IS NOT NULL").fetchone(), "to_regclass"
    )[0]
    if not exists:
        connection.execute("CREATE SCHEMA IF NOT EXISTS migration")
        connection.execute(
            "CREATE TABLE migration.schema_versions ("
            " version integer PRIMARY KEY, upgraded_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
    row = require_row(
        connection.execute("SELECT coalesce(max(version), 0) FROM migration.schema_versions").fetchone(), "the version"
    )
    return int(row[0])


def _steps() -> list[str]:
    text = files("migration_assets.postgres").joinpath("ledger.sql").read_text()
    parts = re.split(r"^-- version (\d+)$", text, flags=re.MULTILINE)[1:]
    numbers, bodies = parts[::2], parts[1::2]
    if [int(number) for number in numbers] != list(range(1, len(bodies) + 1)):
        raise LedgerError(f"ledger.sql does not number its versions 1..n: {numbers}")
    return bodies
