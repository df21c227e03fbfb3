"""The ledger's row on the legacy's readers: one look after the other."""

from datetime import timedelta

from psycopg.types.json import Jsonb

from migration_assets.domain.legacy_reads import APART, Memory, ReadWatch, watched
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.watch.counting import count_reads

_READ = (
    "SELECT watched_since, seen_at, last_read_at, last_reader, counters FROM migration.legacy_reads"
    " WHERE relation = %s FOR UPDATE"
)


def look_for_reads(
    base: Connected, legacy: Connected, spec: TableSpec, cutover: int, *, apart: timedelta = APART
) -> ReadWatch:
    """Look once and keep it. Two looks at the same time come one after the other.

    Args:
        base: The ledger.
        legacy: Where it is looked.
        spec: Which table.
        cutover: The one that put the base in charge; with another one the watch begins anew.
        apart: See `watched`.
    """
    with base.transaction():
        before = _read(base, spec.relation)
        # By the base's clock, a little before the look: whatever is seen later counts for the next one.
        at = require_row(base.execute("SELECT clock_timestamp()").fetchone(), "the clock")[0]
        counted = count_reads(legacy, spec, cutover, before.seen_at if before else None)
        after = watched(before, counted, at, apart=apart)
        base.execute(
            "INSERT INTO migration.legacy_reads (relation, watched_since, seen_at, counters, last_read_at, last_reader)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (relation) DO UPDATE SET"
            " watched_since = excluded.watched_since, seen_at = excluded.seen_at, counters = excluded.counters,"
            " last_read_at = excluded.last_read_at, last_reader = excluded.last_reader",
            [spec.relation, after.watched_since, after.seen_at,
             Jsonb(after.memory.to_json() if after.memory else {}), after.last_read_at, after.last_reader],
        )  # fmt: skip
    return after


def _read(base: Connected, relation: str) -> ReadWatch | None:
    """What is known, locked; None where nobody looked yet."""
    row = base.execute(_READ, [relation]).fetchone()
    if row is None:
        return None
    since, seen_at, last_read_at, last_reader, counters = row
    return ReadWatch(since, seen_at, last_read_at, last_reader, Memory.from_json(counters))
