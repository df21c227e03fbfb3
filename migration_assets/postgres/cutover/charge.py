"""Which side decides what is true: the gates of everything that makes sense under one of them alone.

While the base is in charge the legacy's rows are the older ones. Nothing may bring them into the base then: whoever
could asks here before it touches anything, and again, with a fence, in the transaction that would put them in place.
"""

from datetime import datetime

from migration_assets.domain.cutover_state import BaseInChargeError, CutoverKind
from migration_assets.domain.freshness import instant_text
from migration_assets.postgres.change_stream.records import read_stream
from migration_assets.postgres.cutover.records import CUTOVER_LOCK_CLASS
from migration_assets.postgres.sessions import Connected, require_row

# From `closed` on there is no way back, and the legacy need not answer.
_NO_WAY_BACK = ("closed", "severed", "done")


def base_in_charge_since(base: Connected, relation: str) -> datetime | None:
    """Since when writes belong to the base; None while they belong to the legacy, and where no cutover ever was.

    As `records.in_charge`, which needs a ledger of today's version: this one asks any ledger, or none.
    """
    if not _there(base, "migration.cutovers"):
        return None
    row = base.execute(
        "SELECT kind, opened_at FROM migration.cutovers WHERE relation = %s AND opened_at IS NOT NULL"
        " ORDER BY id DESC LIMIT 1",
        [relation],
    ).fetchone()
    return row[1] if row is not None and CutoverKind(row[0]).target == "base" else None


def is_base_in_charge(base: Connected, relation: str) -> bool:
    """Whether writes belong to the base."""
    return base_in_charge_since(base, relation) is not None


def is_decommissioned(base: Connected, relation: str) -> bool:
    """Whether the legacy is out of the game: nobody goes back to it, and it need not answer any more."""
    if not _there(base, "migration.decommissions"):
        return False
    row = base.execute("SELECT state FROM migration.decommissions WHERE relation = %s", [relation]).fetchone()
    return row is not None and row[0] in _NO_WAY_BACK


def is_abandoned(base: Connected, relation: str) -> bool:
    """Whether the legacy is in charge and nobody follows it: what it holds by now is not known here."""
    return read_stream(base, relation) is None and not is_base_in_charge(base, relation)


def require_legacy_in_charge(base: Connected, relation: str, what: str) -> None:
    """Refuse what rests on the legacy's being the truth.

    Args:
        base: Any session on the base.
        relation: The table's key in the ledger.
        what: What is not done then, and why, after a colon: `nothing is copied from the legacy, …`.

    Raises:
        BaseInChargeError: The base is in charge; nothing was touched.
    """
    since = base_in_charge_since(base, relation)
    if since is not None:
        raise _refused(since, relation, what, gone=is_decommissioned(base, relation))


def keep_legacy_in_charge(base: Connected, relation: str) -> None:
    """Until the caller's transaction ends the legacy stays in charge: no cutover can begin, and none is under way.

    The last look of a step that puts the legacy's rows in place; the first one may be hours old.

    Raises:
        BaseInChargeError: The base is in charge, or is about to be: roll the transaction back.
    """
    require_legacy_in_charge(base, relation, "what was read from the legacy is not put in place")
    row = base.execute(
        "SELECT pg_try_advisory_xact_lock_shared(%s, hashtext(%s))", [CUTOVER_LOCK_CLASS, relation]
    ).fetchone()
    if not require_row(row, "a lock")[0]:
        raise BaseInChargeError(
            "a cutover or rollback is under way: what was read from the legacy is not put in place",
            where=relation,
            state_left="it was rolled back; the base is as before",
            next_step="wait for its end; run this again if the legacy is in charge then",
        )
    # One may have ended between the look and the lock.
    require_legacy_in_charge(base, relation, "what was read from the legacy is not put in place")


def _refused(since: datetime, relation: str, what: str, *, gone: bool) -> BaseInChargeError:
    return BaseInChargeError(
        f"the base is in charge since {instant_text(since)}: {what}",
        where=relation,
        state_left="nothing was touched",
        next_step="nothing: the legacy was decommissioned"
        if gone
        else "nothing; or, where the legacy is to be in charge again, `migration-assets rollback` first",
    )


def _there(base: Connected, table: str) -> bool:
    row = base.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
    return bool(require_row(row, "to_regclass")[0])
