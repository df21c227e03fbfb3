"""Whether the base's lock table has room for statements that touch every partition.

The legacy is one table: a statement on it locks that and its indexes. On the base one that does not say by the control
column which partitions it needs locks all of them with all their indexes, and where many do so at once the server's
lock table is full: "out of shared memory", for everybody.
"""

import math

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.sessions import require_row
from migration_assets.preflight.wording import info
from migration_assets.readiness.sides import Sides

# As the server sizes it (NLOCKENTS): every process that may hold a lock, and prepared transactions.
_LOCKS = """
SELECT (SELECT count(*) + coalesce(sum((SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid)), 0)
        FROM pg_partition_tree(to_regclass(%s)) t JOIN pg_class c ON c.oid = t.relid)::bigint,
       (SELECT count(*) FROM pg_partition_tree(to_regclass(%s)) t WHERE t.isleaf)::bigint,
       current_setting('max_locks_per_transaction')::bigint,
       current_setting('max_connections')::bigint,
       current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint
       + current_setting('max_worker_processes')::bigint + current_setting('max_wal_senders')::bigint
       + coalesce(current_setting('autovacuum_worker_slots', true), current_setting('autovacuum_max_workers'))::bigint
"""
_SHARE = 5


def examine_lock_table(sides: Sides) -> list[Finding]:
    """A warning where a fifth of all connections could fill it with statements that lock every partition."""
    table = str(sides.spec.table)
    row = require_row(sides.base.execute(_LOCKS, [table, table]).fetchone(), "the settings of locks")
    locks, leaves, each, connections, processes = (int(value) for value in row)
    room = each * processes
    at_once = max(1, connections // _SHARE)
    evidence = (
        f"a statement that names no range of {sides.spec.control_column} locks {locks:,} tables and indexes"
        f" ({leaves:,} leaves); the server's lock table has room for {room:,} (max_locks_per_transaction {each}),"
        f" for {room // max(1, locks):,} of them at once"
    )
    if room >= locks * at_once:
        return [info("lock_table", Area.BASE, evidence)]
    wanted = math.ceil(locks * at_once / processes)
    remedy = (
        f"ALTER SYSTEM SET max_locks_per_transaction = {wanted}; then restart the base before the cutover (room for"
        f" {at_once:,} at once). Every quarter that opens adds to it"
    )
    return [Finding("lock_table", Area.BASE, Severity.WARNING, evidence, remedy)]
