"""The markers of both sides compared: what one side sent and the other has not was skipped, however long ago that was.

A side that went back to an earlier moment looks as well as ever once the stream goes on; only what is missing in the
middle tells. Markers travel in the order of their commits: where one has arrived, all earlier ones must have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected, Side
from migration_assets.stream.servers import (
    bar,
    known_servers,
    newest_sent,
    note_position,
    read_identity,
    require_same_servers,
)

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
        """To be asked once that marker has arrived; what is wrong bars the stream. One that others deleted is none.

        Args:
            follower: Where it is to be looked at: in a cut's snapshot.
        """
        of_follower = read_markers(follower or self.follower, self.relation, self.since, _TABLES[self.side])
        found: list[str] = []

        def settled() -> bool:
            """A marker travels before its own session has seen the end of its commit: one that is strange may be so."""
            nonlocal found
            after = read_markers(self.sender, self.relation, self.since, _TABLES[self.side])
            found = differing_markers(self.before & after, self.before | after, of_follower)
            return of_follower <= self.before | after

        wait_until(settled, seconds=_COMMIT_ENDS_SECONDS)
        if found:
            bar(self.ledger, self.relation, found)
        else:
            # The marker's commit was waited for, and it came later.
            note_position(self.ledger, self.relation, self.side, self.lsn)
        return found

    def require(self, marker: int, base: Connected) -> None:
        """The same at a cut, whose own marker stays the proof from now on: a side that goes back loses it.

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
