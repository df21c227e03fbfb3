"""Creates and upgrades the ledger's own tables in the base."""

from collections.abc import Sequence

from psycopg import errors

from migration_assets.domain.errors import LedgerError
from migration_assets.ledger.own_objects import (
    foreign_object,
    ledger_has,
    ledger_steps,
    ledger_version,
    read_own_schema,
)
from migration_assets.postgres.one_schema import begin_alone
from migration_assets.postgres.own_schema import in_own_schema, look_across, own_sql
from migration_assets.postgres.sessions import Connected


def ensure_ledger(connection: Connected) -> int:
    """Bring schema `migration` to this program's version; where it is already, nothing is done or waited for.

    Returns:
        The version.

    Raises:
        LedgerError: The ledger was written by a newer version of this program, or an older one is at work.
        ForeignObjectError: Something of somebody else's has a name that the ledger needs.
        LedgerError: On this side or the other one this program keeps its own in another schema.
    """
    steps = ledger_steps()
    if _known_version(connection, len(steps)) == len(steps):
        return len(steps)
    try:
        _upgrade(connection, steps)
    except (errors.UniqueViolation, errors.DuplicateSchema, errors.DuplicateTable):
        # Another run made the ledger in the same moment; from now on there is a table to take turns at.
        _upgrade(connection, steps)
    except errors.ObjectInUse as error:
        raise LedgerError(
            f"the ledger cannot be upgraded now: {error.diag.message_primary}",
            where=in_own_schema(connection, "schema migration in the base"),
            state_left="the ledger is as it was",
            next_step="let that program end what it does, then run this again; both must not work beside each other",
        ) from None
    return len(steps)


def require_ledger(connection: Connected) -> None:
    """For whoever only looks: the ledger is there and of this program's version. Nothing is made, upgraded or locked.

    Raises:
        LedgerError: There is none, or it is of an older or a newer version.
        ForeignObjectError: As `ensure_ledger`.
    """
    newest = len(ledger_steps())
    version = _known_version(connection, newest)
    if version == newest:
        return
    raise LedgerError(
        f"the ledger has version {version}, and this program reads version {newest}" if version
        else "the base has no ledger yet: nothing was migrated to it",
        where=in_own_schema(connection, "schema migration in the base"),
        state_left="nothing was touched",
        next_step="`migration-assets ledger upgrade`, once no older program is at work; or any step that changes"
        " something, which upgrades it first" if version else "`migration-assets preflight` makes it",
    )  # fmt: skip


def _known_version(connection: Connected, newest: int) -> int:
    version = ledger_version(connection)
    if version > newest:
        raise LedgerError(
            f"the ledger has version {version}, this program knows {newest}",
            where=in_own_schema(connection, "schema migration in the base"),
            state_left="nothing was touched",
            next_step="use the newer version of migration_assets that wrote it",
        )
    return version


def _upgrade(connection: Connected, steps: Sequence[str]) -> None:
    with connection.transaction():
        collisions = read_own_schema(connection, "base").collisions
        if collisions:
            raise foreign_object(connection, collisions)
        if _known_version(connection, len(steps)) == 0:
            look_across(connection)
            begin_alone(connection, "base")
        connection.execute("CREATE SCHEMA IF NOT EXISTS migration")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migration.schema_versions ("
            " version integer PRIMARY KEY, upgraded_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        # Two runs that start together do not race. Not an advisory lock, which anybody who may connect can hold.
        connection.execute("LOCK TABLE migration.schema_versions IN SHARE ROW EXCLUSIVE MODE")
        for number in range(_known_version(connection, len(steps)) + 1, len(steps) + 1):
            connection.execute(own_sql(connection, steps[number - 1]))
            connection.execute("INSERT INTO migration.schema_versions (version) VALUES (%s)", [number])


def has_ledger(base: Connected) -> bool:
    """Whether a stream could be in the ledger at all; a watch must not be what creates it."""
    return ledger_has(base, "streams")
