"""Whether anybody still reads the legacy's table, judged from counters that only grow.

While the base is in charge nobody writes to the legacy but the reverse stream's apply worker, whose index scans are
known: one for each row that it updates or deletes. Whatever is counted beyond that (`excess`) is a client's read.
Counted are sequential scans and the rows that they returned (sample and TID range scans count rows alone), and every
index's scans. Indexes of exclusion constraints and of deferrable unique ones are left out: an insert scans those, too.

A backend tells the statistics of a table and of its indexes one after the other, and a busy one up to ten seconds
later. So an excess is believed only where two looks, further apart than that, both see it. It can be seen one look
late, never lost: the counters go on between the looks. The counting begins at the middle value of three looks, so that
no single look that is off can hide a read or make one up.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, LiteralString, Self

import psycopg
from psycopg.types.json import Jsonb

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.decommissions import current_cutover, read_decommission
from migration_assets.postgres.activity import APPLICATION_NAME
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import LOOK, Connected, require_row
from migration_assets.runtime import Migration

APART = timedelta(seconds=11)
"""A server reports what it could not report at once within ten seconds (PGSTAT_IDLE_INTERVAL)."""


@dataclass(frozen=True)
class Counted:
    """The legacy's statistics at one look.

    Attributes:
        life: Changes whenever the statistics begin anew: the times of their resets.
        raw: Counters that never go back within one life.
        excess: By table and index: scans that the apply worker does not explain. It may be wrong for a moment.
        reading: Clients that hold a lock on the table now: they read it, whatever the counters say.
        suspects: Those, and clients whose last statement since the previous look names the table.
    """

    life: str
    raw: Mapping[str, int]
    excess: Mapping[str, int]
    reading: Sequence[str] = ()
    suspects: Sequence[str] = ()


@dataclass(frozen=True)
class Memory:
    """What one look hands to the next.

    `accepted` is None until three looks have determined where the count begins. `earlier` is the first look's excess,
    once there is a second one.
    """

    life: str
    raw: Mapping[str, int]
    excess: Mapping[str, int]
    excess_at: datetime
    accepted: Mapping[str, int] | None = None
    suspects: str = ""
    earlier: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that the ledger stores."""
        return {
            "life": self.life, "raw": dict(self.raw), "excess": dict(self.excess),
            "excess_at": self.excess_at.isoformat(), "suspects": self.suspects,
            "accepted": None if self.accepted is None else dict(self.accepted),
            "earlier": None if self.earlier is None else dict(self.earlier),
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self | None:
        """Return the memory that the ledger stored; None if it cannot be used."""
        try:
            return cls(stored["life"], stored["raw"], stored["excess"], datetime.fromisoformat(stored["excess_at"]),
                       stored["accepted"], stored["suspects"], stored.get("earlier"))  # fmt: skip
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class ReadWatch:
    """What is known of the legacy's readers; times are by the base's clock.

    `watched_since`: no read since then can have been missed. `unsettled`: this look saw more than is believed yet, or a
    client whose last statement names the table and may not be in the statistics yet.
    """

    watched_since: datetime
    seen_at: datetime
    last_read_at: datetime | None
    last_reader: str | None
    memory: Memory | None = field(default=None, repr=False)
    unsettled: bool = False


def watched(before: ReadWatch | None, counted: Counted, at: datetime, *, apart: timedelta = APART) -> ReadWatch:
    """Return what is known after one more look.

    Args:
        before: What was known after the previous look; None at the first.
        counted: What was seen now.
        at: The time of the look, by the base's clock.
        apart: How far apart two looks must be for an excess to be believed.
    """
    memory = before.memory if before else None
    if before is None or memory is None or memory.life != counted.life or _went_back(memory.raw, counted.raw):
        return _from_here(before, counted, at)
    suspects = ", ".join(counted.suspects) or memory.suspects
    last_read_at, last_reader = before.last_read_at, before.last_reader
    if counted.reading:
        last_read_at, last_reader = at, ", ".join(counted.reading)
    if at - memory.excess_at < apart:
        after = replace(memory, raw=counted.raw, suspects=suspects)
        unsettled = memory.accepted is None or bool(counted.suspects) or _beyond(counted.excess, memory.accepted)
        return ReadWatch(before.watched_since, at, last_read_at, last_reader, after, unsettled)
    if memory.accepted is None:
        if memory.earlier is None:
            after = Memory(counted.life, counted.raw, counted.excess, at, None, suspects, memory.excess)
            return ReadWatch(at, at, last_read_at, last_reader, after, unsettled=True)
        # Only now is the starting value known: a read between these looks cannot be told from earlier ones.
        accepted = {
            name: sorted((memory.earlier.get(name, 0), memory.excess.get(name, 0), now))[1]
            for name, now in counted.excess.items()
        }
        after = Memory(counted.life, counted.raw, counted.excess, at, accepted, suspects)
        return ReadWatch(at, at, last_read_at, last_reader, after)
    both = {name: sorted((memory.excess.get(name, 0), now)) for name, now in counted.excess.items()}
    accepted = dict(memory.accepted)
    read = False
    for name, (low, high) in both.items():
        known = accepted.get(name, 0)
        if low > known:
            read, accepted[name] = True, low
        elif high < known:
            accepted[name] = high  # the starting value was too high
    if read and not counted.reading:
        last_read_at = at
        last_reader = suspects or "not known: whoever it was had gone at the look"
    after = Memory(counted.life, counted.raw, counted.excess, at, accepted, "" if read else suspects)
    unsettled = bool(counted.suspects) or _beyond(counted.excess, accepted)
    return ReadWatch(before.watched_since, at, last_read_at, last_reader, after, unsettled)


def _from_here(before: ReadWatch | None, counted: Counted, at: datetime) -> ReadWatch:
    last = before.last_read_at if before else None
    reader = before.last_reader if before else None
    if counted.reading:
        last, reader = at, ", ".join(counted.reading)
    memory = Memory(counted.life, counted.raw, counted.excess, at, None, ", ".join(counted.suspects))
    return ReadWatch(at, at, last, reader, memory, unsettled=True)


def _went_back(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    return any(now[name] < count for name, count in before.items() if name in now)


def _beyond(now: Mapping[str, int], accepted: Mapping[str, int]) -> bool:
    return any(count > accepted.get(name, 0) for name, count in now.items())


FAMILY: LiteralString = """
WITH RECURSIVE family AS (
    SELECT to_regclass(%(table)s)::oid AS oid
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid
)
"""
"""`family`: the table and its child tables."""

CLIENTS: LiteralString = """
clients AS (
    SELECT a.*, {application} AS application,
           coalesce(a.client_addr::text, 'local') AS address
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
      -- A role without pg_read_all_stats sees neither the type nor the query of other roles' sessions.
      AND coalesce(a.backend_type, 'client backend') = 'client backend'
      AND NOT EXISTS (SELECT FROM pg_stat_replication r WHERE r.pid = a.pid)
      AND NOT EXISTS (SELECT FROM pg_stat_subscription s WHERE s.pid = a.pid)
      AND NOT starts_with(coalesce(a.application_name, ''), 'migration_assets:')
)
""".replace("{application}", APPLICATION_NAME)
"""`clients`, to follow WITH or a comma: other sessions in the database that are not ours."""


_COUNTERS: LiteralString = """
SELECT 't' || o.oid::text, NULL::text, pg_stat_get_numscans(o.oid), pg_stat_get_tuples_returned(o.oid),
       pg_stat_get_tuples_updated(o.oid), pg_stat_get_tuples_deleted(o.oid), false
FROM family o WHERE o.oid IS NOT NULL
UNION ALL
SELECT 't' || x.indrelid::text, 'i' || x.indexrelid::text, pg_stat_get_numscans(x.indexrelid), 0, 0, 0,
       -- The index by which the apply worker finds its row.
       CASE WHEN c.relreplident = 'i' THEN x.indisreplident ELSE x.indisprimary END
FROM family o JOIN pg_index x ON x.indrelid = o.oid JOIN pg_class c ON c.oid = o.oid
WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.conrelid = x.indrelid
                  AND (k.contype = 'x' OR (k.contype IN ('p', 'u') AND k.condeferrable)))
"""
# After a crash the database's own reset time is not set, but the archiver's is.
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
    """Look once at the statistics and the sessions; `since` is the time of the previous look."""
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


_READ = (
    "SELECT watched_since, seen_at, last_read_at, last_reader, counters FROM migration.legacy_reads"
    " WHERE relation = %s FOR UPDATE"
)


def look_for_reads(
    base: Connected, legacy: Connected, spec: TableSpec, cutover: int, *, apart: timedelta = APART
) -> ReadWatch:
    """Look once and store the result. Of two looks at the same time the second waits for the first.

    Args:
        base: A session on the base, which has the ledger.
        legacy: A session on the legacy.
        spec: The table.
        cutover: The id of the cutover that put the base in charge; with another one the watch begins anew.
        apart: See `watched`.
    """
    with base.transaction():
        before = _read(base, spec.relation)
        # By the base's clock, a little before the look: everything seen later counts for the next look.
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
    """Return what is known and lock the row; None before the first look."""
    row = base.execute(_READ, [relation]).fetchone()
    if row is None:
        return None
    since, seen_at, last_read_at, last_reader, counters = row
    return ReadWatch(since, seen_at, last_read_at, last_reader, Memory.from_json(counters))


log = logging.getLogger(__name__)


def note_legacy_reads(migration: Migration) -> ReadWatch | None:
    """Look once and keep the result; None while the legacy is in charge or closed, and if the look failed.

    The caller, a watch, has made sure that the ledger is there. Errors of a server are not raised: the next look makes
    up for this one.
    """
    try:
        with migration.databases.session("base", "watch:reads", LOOK) as base:
            relation = migration.spec.relation
            cutover, closed = current_cutover(base, relation), read_decommission(base, relation)
            if cutover is None or (closed is not None and closed.state.final):
                return None
            with migration.databases.session("legacy", "watch:reads", LOOK) as legacy:
                return look_for_reads(base, legacy, migration.spec, cutover.id)
    except (psycopg.Error, MigrationError) as error:
        log.info("whether the legacy is still read could not be determined: %s", told(error))
        return None
