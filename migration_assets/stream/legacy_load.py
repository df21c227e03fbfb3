"""What the legacy keeps for the stream's slot, and how busy it is: the part of a look that costs one statement."""

from datetime import UTC, datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from migration_assets.domain.stream_sample import StreamSample
from migration_assets.postgres.sessions import Connected

OUR_SLOTS: LiteralString = "migration\\_assets\\_%"
"""For LIKE: how the names of our slots, publications and subscriptions begin, where the exact one is not known."""
_LEGACY = """
SELECT r.slot_name IS NOT NULL AS slot_exists, r.active AS slot_active, r.wal_status, r.safe_wal_size AS safe_wal_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), r.restart_lsn)::bigint AS retained_wal_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), r.confirmed_flush_lsn)::bigint AS unconfirmed_bytes,
       CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN (
           SELECT count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND state = 'active' AND backend_type = 'client backend'
             AND NOT starts_with(application_name, 'migration_assets:')) END AS legacy_active_sessions
FROM (SELECT) one
LEFT JOIN pg_replication_slots r ON r.slot_type = 'logical' AND r.database = current_database()
      AND (r.slot_name = %(slot)s OR (%(slot)s::text IS NULL AND r.slot_name LIKE %(ours)s))
ORDER BY retained_wal_bytes DESC NULLS LAST LIMIT 1
"""


def look_at_legacy(legacy: Connected, slot: str | None) -> dict[str, Any]:
    """The slot and the load. Of a slot whose name is not known: the one of ours that keeps most."""
    with legacy.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_LEGACY, {"slot": slot, "ours": OUR_SLOTS}).fetchone()
    found = dict(row or {})
    if slot is None and not found.get("slot_exists"):
        found["slot_exists"] = None  # perhaps there is none of ours, perhaps it is gone
    return found


def measure_legacy(legacy: Connected, slot: str) -> StreamSample:
    """The cheap part of a look, for the throttle: retained WAL and load, one statement."""
    return StreamSample(relation="", taken_at=datetime.now(UTC), **look_at_legacy(legacy, slot))
