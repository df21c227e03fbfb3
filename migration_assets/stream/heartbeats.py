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
    """Write a heartbeat on the legacy, committed there; returns its id."""
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
    """The highest marker that the base has; 0 where none came yet.

    What an earlier stream, since rebuilt, never carried has a lower id, and is waited for by nobody.
    """
    row = base.execute(
        "SELECT greatest((SELECT max(id) FROM migration.markers WHERE relation = %(relation)s),"
        " (SELECT exact_since_marker FROM migration.streams WHERE relation = %(relation)s), 0)",
        {"relation": relation},
    ).fetchone()
    return int(require_row(row, "the newest marker")[0])


def has_arrived(base: Connected, relation: str, marker: int) -> bool:
    """Whether a marker is visible on the base: then all that was committed before it is applied."""
    found = base.execute("SELECT 1 FROM migration.markers WHERE relation = %s AND id = %s", [relation, marker])
    return found.fetchone() is not None


def age_of_oldest_under_way(legacy: Connected, relation: str, arrived: int) -> float | None:
    """Seconds, by the legacy's clock, since the oldest marker after `arrived` was sent; None where there is none."""
    row = legacy.execute(
        "SELECT extract(epoch FROM clock_timestamp() - min(sent_at))::float8 FROM migration.markers"
        " WHERE relation = %s AND id > %s",
        [relation, arrived],
    ).fetchone()
    age = require_row(row, "the oldest marker")[0]
    return None if age is None else max(0.0, float(age))


def prune_heartbeats(legacy: Connected, base: Connected, relation: str, *, keep_seconds: float) -> int:
    """Delete old heartbeats on the legacy; the stream brings the deletes to the base. Returns how many.

    Only such as the base has: a delete that meets no row there counts as a conflict, which is an alarm of its own.
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
    """Write a marker on the base, durably; its id."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        row = base.execute(
            "INSERT INTO migration.reverse_markers (relation, id)"
            " VALUES (%s, nextval('migration.reverse_marker_id')) RETURNING id",
            [relation],
        ).fetchone()
    return int(require_row(row, "a reverse marker")[0])


def reverse_arrived(legacy: Connected, relation: str, marker: int) -> bool:
    """Whether the marker is visible on the legacy: then all that the base committed before it is applied there."""
    found = legacy.execute(
        "SELECT 1 FROM migration.reverse_markers WHERE relation = %s AND id = %s", [relation, marker]
    )
    return found.fetchone() is not None


_SHOWN = 5
_COMMIT_ENDS_SECONDS = 10.0
_TABLES: Mapping[Side, str] = {"legacy": "markers", "base": "reverse_markers"}


def differing_markers(sent: set[int], before: set[int], arrived: set[int]) -> list[str]:
    """What the markers say about changes that were skipped, or were sent by a server that went back.

    Args:
        sent: Those that the sender has, and had before something was sent that has arrived by now.
        before: Those that the sender had at any time of the look.
        arrived: Those that the follower has.
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
    """The numbers of a table's later markers on one side; `table` is `markers`, or `reverse_markers`."""
    rows = connection.execute(
        sql.SQL("SELECT id FROM {} WHERE relation = %s AND id > %s").format(
            sql.Identifier(own_schema(connection), table)
        ),
        [relation, since],
    )
    return {int(row[0]) for row in rows}


@dataclass(frozen=True)
class MarkersWatch:
    """Whether a marker that arrives found all earlier ones there; made before that marker is sent."""

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
        """Look at what the sender has by now.

        Args:
            ledger: The base, whose ledger it is.
            sender: Who sends.
            follower: Who follows.
            relation: Whose stream.
            side: Which of the two the sender is.
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
            follower: Where it is to be looked at: in a cut's snapshot.
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
            marker: The cut's own.
            base: In the cut's snapshot, or while the stream rests there.

        Raises:
            ServerChangedError: Something was skipped, or the legacy went back; the stream is barred.
        """
        if self.arrived(base):
            require_same_servers(self.ledger, self.relation)
        self.ledger.execute(
            "UPDATE migration.servers SET markers_since = %(since)s"
            " WHERE relation = %(relation)s AND side = 'legacy' AND markers_since < %(since)s",
            {"since": marker - 1, "relation": self.relation},
        )
