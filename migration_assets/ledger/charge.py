"""Which side is in charge, what the ledger says of cutovers at one moment, and the gates that rest on it.

While the base is in charge the legacy's rows are the older ones, and nothing may bring them into the base. A step that
could asks here before it touches anything, and again, with a fence, in the transaction that would put them in place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from migration_assets.domain.samples import UnderWay
from migration_assets.domain.states import BaseInChargeError, CutoverKind, SideName, instant_text
from migration_assets.ledger.own_objects import require_trusted
from migration_assets.ledger.session_locks import holder_or_null, holder_pids
from migration_assets.ledger.stream import StreamLock, read_stream
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.runtime import Migration

_FACTS = sql.SQL("""
SELECT o.kind, o.opened_at, o.id, o.approved_by, u.id, u.kind, u.state, u.opened_at IS NOT NULL,
       (u.timeline #>> '{{begun,timeout_seconds}}')::float8,
       {holder},
       EXISTS (SELECT FROM migration.cutovers WHERE relation = %(relation)s AND stream_barred),
       EXISTS (SELECT FROM migration.cutovers WHERE relation = %(relation)s)
FROM (SELECT) one
LEFT JOIN LATERAL (SELECT * FROM migration.cutovers WHERE relation = %(relation)s AND opened_at IS NOT NULL
                   ORDER BY id DESC LIMIT 1) o ON true
LEFT JOIN migration.cutovers u ON u.relation = %(relation)s AND u.outcome = 'running'
""")
_DECOMMISSIONED = """
SELECT coalesce(finished_at, started_at) FROM migration.decommissions
WHERE relation = %s AND state IN ('closed', 'severed', 'done')
"""


@dataclass(frozen=True)
class CutoverFacts:
    """Which side is in charge since when, and an unfinished cutover; times are by the base's clock.

    Attributes:
        ledger: Whether the base has a ledger that records cutovers.
        known: Whether a cutover of the table was ever begun.
        in_charge: The side in charge.
        since: Since when it is in charge; None if there never was a cutover.
        cutover: The id of the cutover or rollback that put it in charge.
        approved_by: Who approved that cutover or rollback.
        under_way: An unfinished cutover or rollback; its `pid` is never the caller's own session.
        stream_barred: Whether only a cutover or rollback may let the change stream go on.
        decommissioned: Since when the legacy is closed for good.
    """

    ledger: bool = False
    known: bool = False
    in_charge: SideName = "legacy"
    since: datetime | None = None
    cutover: int | None = None
    approved_by: str | None = None
    under_way: UnderWay | None = None
    stream_barred: bool = False
    decommissioned: datetime | None = None


def read_cutover_facts(base: Connected, relation: str) -> CutoverFacts:
    """Read the facts, also of a base without a ledger or with an older one. Changes nothing, waits for nobody."""
    there = base.execute(
        "SELECT to_regclass('migration.cutovers') IS NOT NULL, to_regclass('migration.decommissions') IS NOT NULL"
    ).fetchone()
    cutovers, decommissions = require_row(there, "to_regclass")
    if not cutovers:
        return CutoverFacts()
    require_trusted(base)
    row = require_row(
        base.execute(
            _FACTS.format(holder=holder_or_null(base)),
            {"relation": relation, "lock": StreamLock.CUTOVER.named(relation)},
        ).fetchone(),
        "the cutovers",
    )
    kind, since, cutover, approved_by, left, left_kind, state, opened, timeout, pid, barred, known = row
    closed = base.execute(_DECOMMISSIONED, [relation]).fetchone() if decommissions else None
    return CutoverFacts(
        ledger=True,
        known=known,
        in_charge=CutoverKind(kind).target if kind else "legacy",
        since=since,
        cutover=cutover,
        approved_by=approved_by,
        under_way=UnderWay(left, left_kind, state, pid, opened, timeout) if left is not None else None,
        stream_barred=barred,
        decommissioned=closed[0] if closed else None,
    )


def in_charge(base: Connected, relation: str) -> SideName:
    """The side in charge: the legacy until a cutover opened the base; after that the side that was opened last."""
    return read_cutover_facts(base, relation).in_charge


def base_in_charge_since(base: Connected, relation: str) -> datetime | None:
    """Since when the base is in charge; None while the legacy is."""
    facts = read_cutover_facts(base, relation)
    return facts.since if facts.in_charge == "base" else None


def is_base_in_charge(base: Connected, relation: str) -> bool:
    """Whether the base is in charge."""
    return base_in_charge_since(base, relation) is not None


def is_decommissioned(base: Connected, relation: str) -> bool:
    """Whether the legacy is decommissioned: nobody goes back to it, and it need not answer any more."""
    return read_cutover_facts(base, relation).decommissioned is not None


def is_abandoned(base: Connected, relation: str) -> bool:
    """Whether the legacy is in charge without a change stream, so that its present rows are not known here."""
    return read_stream(base, relation) is None and not is_base_in_charge(base, relation)


def require_legacy_in_charge(base: Connected, relation: str, what: str) -> None:
    """Refuse a step that needs the legacy to be in charge.

    Args:
        base: Any session on the base.
        relation: The table's key in the ledger.
        what: What is not done and why; the error shows it after a colon: `nothing is copied from the legacy, …`.

    Raises:
        BaseInChargeError: The base is in charge; nothing was touched.
    """
    facts = read_cutover_facts(base, relation)
    if facts.in_charge == "base":
        raise refusal(facts, relation, what)


def keep_legacy_in_charge(base: Connected, relation: str) -> None:
    """Keep the legacy in charge until the caller's transaction ends: no cutover can begin, and none is under way.

    It is the last look of a step that puts the legacy's rows in place; the first one may be hours old.

    Raises:
        BaseInChargeError: The base is in charge, or is about to be: roll the transaction back.
    """
    require_legacy_in_charge(base, relation, "what was read from the legacy is not put in place")
    # A cutover notes itself there before anything else, and again at every step.
    base.execute("LOCK TABLE migration.cutovers IN SHARE MODE")
    # A transaction sees the list of sessions as it was at its first look.
    base.execute("SELECT pg_stat_clear_snapshot()")
    if holder_pids(base, StreamLock.CUTOVER.named(relation)):
        raise BaseInChargeError(
            "a cutover or rollback is under way: what was read from the legacy is not put in place",
            where=relation,
            state_left="this step was rolled back; the base is as before",
            next_step="wait until it ends; run this again if the legacy is in charge then",
        )
    # A cutover may have ended, or begun, between the look and the lock.
    require_legacy_in_charge(base, relation, "what was read from the legacy is not put in place")


def refusal(facts: CutoverFacts, relation: str, what: str) -> BaseInChargeError:
    """The error of a step that met a base in charge; `what` as in `require_legacy_in_charge`."""
    since = f" since {instant_text(facts.since)}" if facts.since else ""
    return BaseInChargeError(
        f"the base is in charge{since} (cutover {facts.cutover}): {what}",
        where=relation,
        state_left="nothing was touched",
        next_step="nothing: the legacy was decommissioned"
        if facts.decommissioned
        else "nothing, if the base is meant to be in charge. `migration-assets repair-legacy QUARTER WEEK` makes the"
        " legacy equal to the base; `migration-assets rollback` shows the way back to the legacy",
    )


def legacy_leads(relation: str, what: str) -> Callable[[Connected], None]:
    """The gate of a step that rests on the legacy's being the truth; see `require_legacy_in_charge`.

    It is asked before the legacy is asked for anything, which may be gone while the base is in charge.
    """
    return lambda base: require_legacy_in_charge(base, relation, what)


def why_nobody_compares(migration: Migration) -> tuple[str, bool] | None:
    """Why no week is compared with the legacy now, and whether that is right; None where the stream follows it."""
    with migration.databases.session("base", "charge") as base:
        since = base_in_charge_since(base, migration.spec.relation)
        if since is not None:
            return f"the base is in charge since {instant_text(since)}: new rows are written only to the base", True
        if is_abandoned(base, migration.spec.relation):
            return "no change stream follows the legacy: its present rows are not known here", False
    return None
