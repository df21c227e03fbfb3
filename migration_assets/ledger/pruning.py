"""What the ledger keeps for a while alone: attempts, preflights, past alerts, rows as they were before repairs.

What the chain of evidence covers, and what a gate or a proof rests on, is never among it.
"""

from collections.abc import Iterable

from migration_assets.domain.errors import LedgerError
from migration_assets.postgres.sessions import Connected

_AT_ONCE = 1_000
_REPAIRS_AT_ONCE = 10


def prune_ledger(base: Connected, relation: str, *, record_days: float, image_days: float) -> None:
    """Delete what is older, some of it at each call, so that none takes long.

    Args:
        base: In no transaction.
        relation: The table's key in the ledger.
        record_days: Of attempts (but the last one of a week), preflights (but the last one) and cleared alerts.
        image_days: Of the rows that repairs changed, as they were before.
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
        # Who takes a repair back has its row locked, and keeps its images.
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
        LedgerError: Some were removed already: they were too old.
    """
    rows = base.execute(
        "SELECT id, images_removed_at FROM migration.repairs WHERE id = ANY(%s) ORDER BY id FOR UPDATE", [list(repairs)]
    ).fetchall()
    for number, removed_at in rows:
        if removed_at is not None:
            raise LedgerError(
                f"of repair {number} the rows as they were before it were removed at {removed_at:%Y-%m-%d %H:%M} UTC:"
                " they were older than MIGRATION_REPAIR_IMAGE_DAYS",
                where=where,
                state_left="nothing was changed; the ledger's table repairs says how many rows it changed, and when",
                next_step="a validation says whether the week is equal now; what was in it before has no other copy"
                " here than backups of the base",
            )
