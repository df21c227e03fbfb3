"""Creates and upgrades the ledger's own tables in the base, and deletes what is kept for a while only.

Attempts, preflights, past alerts and rows as they were before repairs go by their age. What the chain of evidence
covers, and what a gate or a proof rests on, is never deleted.
"""

from collections.abc import Iterable, Sequence

from psycopg import errors

from migration_assets.domain.errors import LedgerError
from migration_assets.ledger.own_objects import (
    foreign_object,
    ledger_has,
    ledger_steps,
    ledger_version,
    read_own_schema,
)
from migration_assets.postgres.own_schema import begin_alone, in_own_schema, look_across, own_sql
from migration_assets.postgres.sessions import Connected
from migration_assets.runtime import Migration


def ensure_ledger(connection: Connected) -> int:
    """Bring schema `migration` to this program's version; if it has that version, nothing is done or waited for.

    Returns:
        The version.

    Raises:
        LedgerError: A newer version of this program wrote the ledger, or an older one is at work; or this program
            already uses a schema of another name on one of the sides.
        ForeignObjectError: A foreign object has a name that the ledger needs.
    """
    steps = ledger_steps()
    if _known_version(connection, len(steps)) == len(steps):
        return len(steps)
    try:
        _upgrade(connection, steps)
    except (errors.UniqueViolation, errors.DuplicateSchema, errors.DuplicateTable):
        # Another run made the ledger at the same moment; now there is a table to lock.
        _upgrade(connection, steps)
    except errors.ObjectInUse as error:
        raise LedgerError(
            f"the ledger cannot be upgraded now: {error.diag.message_primary}",
            where=in_own_schema(connection, "schema migration in the base"),
            state_left="the ledger is unchanged",
            next_step="wait until that program has finished, then run this again; the two must not work side by side",
        ) from None
    return len(steps)


def require_ledger(connection: Connected) -> None:
    """Require a ledger of this program's version, for steps that only look. Nothing is made, upgraded or locked.

    Raises:
        LedgerError: There is no ledger, or it has an older or a newer version.
        ForeignObjectError: As in `ensure_ledger`.
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
        # Orders runs that start together. It is not an advisory lock, which any role that may connect could hold.
        connection.execute("LOCK TABLE migration.schema_versions IN SHARE ROW EXCLUSIVE MODE")
        for number in range(_known_version(connection, len(steps)) + 1, len(steps) + 1):
            connection.execute(own_sql(connection, steps[number - 1]))
            connection.execute("INSERT INTO migration.schema_versions (version) VALUES (%s)", [number])


def has_ledger(base: Connected) -> bool:
    """Whether there is a ledger that could have a stream. A watch must not create one."""
    return ledger_has(base, "streams")


def upgrade_ledger(migration: Migration) -> tuple[int, int]:
    """Make the ledger or upgrade it; returns the version that it had (0: there was none) and the one that it has now.

    Raises:
        LedgerError: A newer version of this program wrote it.
        ForeignObjectError: Foreign objects have names that the ledger needs, or could run statements as our role.
    """
    with migration.databases.session("base", "ledger") as base:
        before = ledger_version(base)
        return before, ensure_ledger(base)


_AT_ONCE = 1_000
_REPAIRS_AT_ONCE = 10


def prune_ledger(base: Connected, relation: str, *, record_days: float, image_days: float) -> None:
    """Delete what is older, a part of it at each call, so that no call takes long.

    Args:
        base: Not in a transaction.
        relation: The table's key in the ledger.
        record_days: Age in days from which attempts, preflights and cleared alerts are deleted, except the last attempt
            of each week and the last preflight.
        image_days: Age in days from which the row images of repairs are deleted.
    """
    limits = {"relation": relation, "days": record_days, "limit": _AT_ONCE}
    base.execute(
        "DELETE FROM migration.attempts WHERE id IN (SELECT a.id FROM migration.attempts a WHERE a.relation ="
        " %(relation)s AND a.started_at < clock_timestamp() - %(days)s * interval '1 day'"
        " AND EXISTS (SELECT FROM migration.attempts n WHERE (n.relation, n.quarter, n.week) ="
        "  (a.relation, a.quarter, a.week) AND n.id > a.id) LIMIT %(limit)s)",
        limits,
    )
    base.execute(
        "DELETE FROM migration.preflights WHERE id IN (SELECT p.id FROM migration.preflights p WHERE p.relation ="
        " %(relation)s AND p.taken_at < clock_timestamp() - %(days)s * interval '1 day'"
        " AND p.id < (SELECT max(id) FROM migration.preflights WHERE relation = %(relation)s) LIMIT %(limit)s)",
        limits,
    )
    base.execute(
        "DELETE FROM migration.alerts WHERE id IN (SELECT id FROM migration.alerts WHERE relation = %(relation)s"
        " AND cleared_at < clock_timestamp() - %(days)s * interval '1 day' LIMIT %(limit)s)",
        limits,
    )
    with base.transaction():
        # A step that takes a repair back has locked its row, and so keeps its images.
        found = base.execute(
            "UPDATE migration.repairs SET images_removed_at = clock_timestamp() WHERE id IN (SELECT id FROM"
            " migration.repairs WHERE relation = %s AND images_removed_at IS NULL"
            " AND repaired_at < clock_timestamp() - %s * interval '1 day' ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)"
            " RETURNING id",
            [relation, image_days, _REPAIRS_AT_ONCE],
        ).fetchall()
        base.execute("DELETE FROM migration.repaired_rows WHERE repair_id = ANY(%s)", [[one for (one,) in found]])


def hold_images(base: Connected, repairs: Iterable[int], where: str) -> None:
    """Keep the images of these repairs until the transaction ends.

    Raises:
        LedgerError: Some images were already removed because of their age.
    """
    rows = base.execute(
        "SELECT id, images_removed_at FROM migration.repairs WHERE id = ANY(%s) ORDER BY id FOR UPDATE", [list(repairs)]
    ).fetchall()
    for number, removed_at in rows:
        if removed_at is not None:
            raise LedgerError(
                f"the row images of repair {number} were removed at {removed_at:%Y-%m-%d %H:%M} UTC:"
                " they were older than MIGRATION_REPAIR_IMAGE_DAYS",
                where=where,
                state_left="nothing was changed; the ledger's table repairs says how many rows it changed, and when",
                next_step="a validation says whether the week is equal now; the rows from before the repair are only in"
                " backups of the base",
            )
