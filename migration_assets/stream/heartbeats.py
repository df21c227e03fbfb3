"""Heartbeats measure the lag on one clock, and markers tell whether either side skipped changes.

A heartbeat is a marker that nobody waits at: its way to the base is the lag. A side that went back to an earlier moment
looks as well as ever once the stream goes on, and only what is missing in the middle tells. Markers travel in the order
of their commits, so that where one has arrived, all earlier ones must have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from migration_assets.ledger.own_objects import require_trusted
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.stream.servers import (
    bar,
    known_servers,
    newest_sent,
    note_position,
    read_identity,
    require_same_servers,
)

KIND = "heartbeat"


def send_heartbeat(legacy: Connected, relation: str) -> int:
    """Write a heartbeat on the legacy and commit it; returns its id."""
    require_trusted(legacy)
    with legacy.transaction():
        # A standby that hangs must not make the watch hang.
        legacy.execute("SET LOCAL synchronous_commit = local")
        row = legacy.execute(
            "INSERT INTO migration.markers (relation, id, kind, sent_at)"
            " VALUES (%s, nextval('migration.marker_id'), %s, clock_timestamp()) RETURNING id",
            [relation, KIND],
        ).fetchone()
    return int(require_row(row, "a new heartbeat")[0])


def newest_arrived(base: Connected, relation: str) -> int:
    """Return the highest marker id that the base has; 0 before the first.

    Markers that an earlier stream, rebuilt since, never carried have lower ids and are not waited for.
    """
    row = base.execute(
        "SELECT greatest((SELECT max(id) FROM migration.markers WHERE relation = %(relation)s),"
        " (SELECT exact_since_marker FROM migration.streams WHERE relation = %(relation)s), 0)",
        {"relation": relation},
    ).fetchone()
    return int(require_row(row, "the newest marker")[0])


def has_arrived(base: Connected, relation: str, marker: int) -> bool:
    """Return whether the marker is visible on the base: then everything committed before it is applied."""
    found = base.execute("SELECT 1 FROM migration.markers WHERE relation = %s AND id = %s", [relation, marker])
    return found.fetchone() is not None


def age_of_oldest_under_way(legacy: Connected, relation: str, arrived: int) -> float | None:
    """Return the seconds, by the legacy's clock, since the oldest marker after `arrived` was sent; None if none was."""
    row = legacy.execute(
        "SELECT extract(epoch FROM clock_timestamp() - min(sent_at))::float8 FROM migration.markers"
        " WHERE relation = %s AND id > %s",
        [relation, arrived],
    ).fetchone()
    age = require_row(row, "the oldest marker")[0]
    return None if age is None else max(0.0, float(age))


def prune_heartbeats(legacy: Connected, base: Connected, relation: str, *, keep_seconds: float) -> int:
    """Delete old heartbeats on the legacy; the stream carries the deletes to the base. Returns how many.

    Only those that the base has: a delete that finds no row there counts as a conflict, which raises an alert.
    """
    old = legacy.execute(
        "SELECT id FROM migration.markers WHERE relation = %s AND kind = %s"
        " AND sent_at < clock_timestamp() - %s * interval '1 second'",
        [relation, KIND, keep_seconds],
    ).fetchall()
    if not old:
        return 0
    present = base.execute(
        "SELECT id FROM migration.markers WHERE relation = %s AND id = ANY(%s)", [relation, [row[0] for row in old]]
    ).fetchall()
    return legacy.execute(
        "DELETE FROM migration.markers WHERE relation = %s AND id = ANY(%s)", [relation, [row[0] for row in present]]
    ).rowcount


def send_reverse_marker(base: Connected, relation: str) -> int:
    """Write a marker on the base, flushed to disk; returns its id."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        row = base.execute(
            "INSERT INTO migration.reverse_markers (relation, id)"
            " VALUES (%s, nextval('migration.reverse_marker_id')) RETURNING id",
            [relation],
        ).fetchone()
    return int(require_row(row, "a reverse marker")[0])


def reverse_arrived(legacy: Connected, relation: str, marker: int) -> bool:
    """Return whether the marker is visible on the legacy: then everything the base committed before it is applied."""
    found = legacy.execute(
        "SELECT 1 FROM migration.reverse_markers WHERE relation = %s AND id = %s", [relation, marker]
    )
    return found.fetchone() is not None


_SHOWN = 5
_COMMIT_ENDS_SECONDS = 10.0
_TABLES: Mapping[Side, str] = {"legacy": "markers", "base": "reverse_markers"}


def differing_markers(sent: set[int], before: set[int], arrived: set[int]) -> list[str]:
    """Return what the markers say about skipped changes, or about a sender that went back in time.

    Args:
        sent: Markers that the sender has now and had before a marker was sent that has arrived by now.
        before: Markers that the sender had at any time of the look.
        arrived: Markers that the follower has.
    """
    lost, strange = sorted(sent - arrived), sorted(arrived - before)
    found: list[str] = []
    if lost:
        found.append(
            f"changes were skipped: {_listed(lost)} never arrived, though later ones did: the side that follows was"
            " restored to an earlier moment, is a standby that lagged, or was not sent everything for a while"
        )
    if strange:
        found.append(
            f"the side that is followed has lost {_listed(strange)}, which arrived: it was restored to an earlier"
            " moment, or is a standby that lagged"
        )
    return found


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"marker{'' if len(numbers) == 1 else 's'} {shown}{more}"


def read_markers(connection: Connected, relation: str, since: int, table: str = "markers") -> set[int]:
    """Return the ids greater than `since` in one side's marker table (`markers` or `reverse_markers`)."""
    rows = connection.execute(
        sql.SQL("SELECT id FROM {} WHERE relation = %s AND id > %s").format(
            sql.Identifier(own_schema(connection), table)
        ),
        [relation, since],
    )
    return {int(row[0]) for row in rows}


@dataclass(frozen=True)
class MarkersWatch:
    """Checks whether a marker that arrives finds all earlier ones there; made before that marker is sent."""

    ledger: Connected
    sender: Connected
    follower: Connected
    relation: str
    side: Side
    since: int
    lsn: str
    before: set[int]

    @classmethod
    def begin(
        cls, ledger: Connected, sender: Connected, follower: Connected, relation: str, side: Side
    ) -> "MarkersWatch":
        """Read which markers the sender has by now.

        Args:
            ledger: A session on the base, which has the ledger.
            sender: A session on the side that sends.
            follower: A session on the side that follows.
            relation: The table whose stream it is.
            side: The sender's side.
        """
        known = known_servers(ledger, relation).get(side)
        since = known.markers_since if known else newest_sent(sender, side)
        lsn = read_identity(sender, side).lsn
        return cls(
            ledger, sender, follower, relation, side, since, lsn, read_markers(sender, relation, since, _TABLES[side])
        )

    def arrived(self, follower: Connected | None = None) -> list[str]:
        """Compare both sides once that marker has arrived; a gap bars the stream, unless others deleted the marker.

        Args:
            follower: The session to read the follower with, such as one in a cut's snapshot.
        """
        of_follower = read_markers(follower or self.follower, self.relation, self.since, _TABLES[self.side])
        found: list[str] = []

        def settled() -> bool:
            """Wait for commits of markers: a marker can arrive before its own session sees the end of its commit."""
            nonlocal found
            after = read_markers(self.sender, self.relation, self.since, _TABLES[self.side])
            found = differing_markers(self.before & after, self.before | after, of_follower)
            return of_follower <= self.before | after

        wait_until(settled, seconds=_COMMIT_ENDS_SECONDS)
        if found:
            bar(self.ledger, self.relation, found)
        else:
            # It came after the marker's commit, which was waited for.
            note_position(self.ledger, self.relation, self.side, self.lsn)
        return found

    def require(self, marker: int, base: Connected) -> None:
        """Compare at a cut. Its own marker is the proof from now on: a side that goes back loses it.

        Args:
            marker: The cut's own marker.
            base: In the cut's snapshot, or while the stream rests there.

        Raises:
            ServerChangedError: Changes were skipped, or the legacy went back in time; the stream is barred.
        """
        if self.arrived(base):
            require_same_servers(self.ledger, self.relation)
        self.ledger.execute(
            "UPDATE migration.servers SET markers_since = %(since)s"
            " WHERE relation = %(relation)s AND side = 'legacy' AND markers_since < %(since)s",
            {"since": marker - 1, "relation": self.relation},
        )
