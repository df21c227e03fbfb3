"""Reads the legacy's statistics: how often its table was scanned, and by whom. Reads nothing of the table itself.

Counted are sequential scans and the rows that they returned (sample and TID range scans count rows alone), and every
index's scans. Left out are indexes of exclusion constraints and of deferrable unique ones: an insert scans those, too.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString

from migration_assets.domain.legacy_reads import Counted
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.watch.queries import CLIENTS, FAMILY

_COUNTERS: LiteralString = """
SELECT 't' || o.oid::text, NULL::text, pg_stat_get_numscans(o.oid), pg_stat_get_tuples_returned(o.oid),
       pg_stat_get_tuples_updated(o.oid), pg_stat_get_tuples_deleted(o.oid), false
FROM family o WHERE o.oid IS NOT NULL
UNION ALL
SELECT 't' || x.indrelid::text, 'i' || x.indexrelid::text, pg_stat_get_numscans(x.indexrelid), 0, 0, 0,
       -- What the apply worker finds its row by.
       CASE WHEN c.relreplident = 'i' THEN x.indisreplident ELSE x.indisprimary END
FROM family o JOIN pg_index x ON x.indrelid = o.oid JOIN pg_class c ON c.oid = o.oid
WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.conrelid = x.indrelid
                  AND (k.contype = 'x' OR (k.contype IN ('p', 'u') AND k.condeferrable)))
"""
# After a crash of the server the database's own reset time is not set; the archiver's is.
_LIFE = """
SELECT concat_ws('/', %s::text, current_setting('track_counts'), to_regclass(%s)::oid, d.stats_reset, a.stats_reset)
FROM pg_stat_database d, pg_stat_archiver a WHERE d.datname = current_database()
"""
_CLIENTS: LiteralString = """
SELECT format('%%s (%%s, %%s)', a.usename, a.application, a.address),
       EXISTS (SELECT FROM pg_locks k WHERE k.pid = a.pid AND k.locktype = 'relation' AND k.granted
               AND k.mode IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
               AND k.relation IN (SELECT oid FROM family)
               AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())),
       coalesce(a.query_start >= %(since)s AND strpos(lower(a.query), lower(%(name)s)) > 0, false)
FROM clients a ORDER BY a.backend_start
"""
_NAMED = 3


def count_reads(legacy: Connected, spec: TableSpec, cutover: int, since: datetime | None) -> Counted:
    """One look at the statistics and at who is there; `since` is when the one before was."""
    legacy.execute("SET stats_fetch_consistency = 'snapshot'")
    with legacy.transaction():
        parameters = {"table": str(spec.table)}
        rows = legacy.execute(FAMILY + _COUNTERS, parameters).fetchall()
        life = str(require_row(legacy.execute(_LIFE, [cutover, str(spec.table)]).fetchone(), "the statistics")[0])
    writes = {table: updated + deleted for table, index, _, _, updated, deleted, _ in rows if index is None}
    raw: dict[str, int] = {}
    excess: dict[str, int] = {}
    for table, index, scans, returned, updated, deleted, applies in rows:
        if index is None:
            raw |= {f"{table}.scans": scans, f"{table}.rows": returned, f"{table}.writes": updated + deleted}
            excess |= {f"{table}.scans": scans, f"{table}.rows": returned}
        else:
            raw[index] = scans
            excess[index] = scans - (writes[table] if applies else 0)
    reading, suspects = _clients(legacy, spec, since)
    return Counted(life, raw, excess, reading, suspects)


def _clients(legacy: Connected, spec: TableSpec, since: datetime | None) -> tuple[Sequence[str], Sequence[str]]:
    parameters = {"table": str(spec.table), "name": spec.table.name, "since": since}
    rows = legacy.execute(FAMILY + "," + CLIENTS + _CLIENTS, parameters).fetchall()
    reading = list(dict.fromkeys(str(who) for who, holds, _ in rows if holds))
    suspects = list(dict.fromkeys(str(who) for who, holds, names in rows if holds or names))
    return reading[:_NAMED], suspects[:_NAMED]
