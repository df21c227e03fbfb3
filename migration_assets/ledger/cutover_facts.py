"""What the ledger says of cutovers at one moment: for those who look, and for those who must not act."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from migration_assets.domain.cutover_sample import UnderWay
from migration_assets.domain.cutover_state import CutoverKind, SideName
from migration_assets.ledger.own_objects import require_trusted
from migration_assets.ledger.session_locks import holder_or_null
from migration_assets.ledger.stream import StreamLock
from migration_assets.postgres.sessions import Connected, require_row

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
    """Who is in charge since when, and what is not finished; times by the base's clock.

    Attributes:
        ledger: Whether the base has a ledger that could know.
        known: Whether any cutover of the table was ever begun.
        in_charge: The side that writes belong to.
        since: Since when, by which `cutover`, approved by whom; None where none was ever done.
        under_way: One that is not finished; `pid` is never the caller's own session.
        stream_barred: The change stream must not go on.
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
    """Also of a base without a ledger, or with an older one. Changes nothing, waits for nobody."""
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
    """The side that writes belong to: the legacy, until a cutover opened the base; then whichever was opened last."""
    return read_cutover_facts(base, relation).in_charge
