"""What live traffic is asked to do and what it did: plain data, no I/O."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from migration_assets.domain.errors import SettingsError
from migration_assets.embedded.bookings import AS_OF, FIRST_BOOKED

if TYPE_CHECKING:
    from collections import Counter
    from datetime import datetime


@dataclass(frozen=True)
class TrafficPlan:
    """How to write.

    Attributes:
        rate: Transactions per second; 0 = as fast as one connection can.
        seed: Equal seeds draw equal decisions.
        as_of: Upper end of booked_at, exclusive, aware: the traffic's present.
        first: Lower end of booked_at, inclusive, aware; older rows are left alone.

    Raises:
        SettingsError: A negative rate, a naive time or an empty range.
    """

    rate: float = 200.0
    seed: int = 7
    as_of: datetime = AS_OF
    first: datetime = FIRST_BOOKED

    def __post_init__(self) -> None:
        if self.rate < 0 or self.as_of.tzinfo is None or self.first.tzinfo is None or self.first >= self.as_of:
            raise SettingsError(
                f"Cannot write {self.rate} transactions/s from {self.first} to {self.as_of}",
                where="traffic plan",
                state_left="nothing was written",
                next_step="Give a rate >= 0 and two times with a time zone, the first one earlier.",
            )


@dataclass
class TrafficStats:
    """What was committed, by kind; no row change is in two kinds.

    Attributes:
        inserts: New rows with an id of the sequence.
        updates: Small columns changed, of any row.
        updates_toast_unchanged: The same of rows whose notes lie out of line and stay as they are.
        updates_notes: Notes changed.
        deletes: Rows deleted.
        reinserts: Formerly deleted ids that came back with other contents, often in another week.
        moved_week: booked_at changed to another week of the same quarter.
        moved_quarter: booked_at changed to another quarter.
        transactions: Committed transactions.
        rollbacks: Transactions rolled back on purpose; nothing of them is counted elsewhere.
        savepoint_rollbacks: Parts rolled back inside committed transactions.
        lost_connections: Connections that broke; each was opened anew.
        in_doubt: Transactions whose COMMIT was sent but not answered: perhaps committed, and not counted elsewhere.
        refused: Transactions that a held side refused (SQLSTATE 25006) and that were tried again, nothing lost.
        longest_refusal_ms: The longest time from a refusal to the next commit: what a cutover cost the applications.
        switches: How often the applications followed their switch to the other side.
        on_base: Those of `transactions` that the base committed.
        errors: Transactions that failed otherwise; the server rolled them back.
        last_error: The latest failure, one line without secrets.
        seconds: Run time so far.
    """

    inserts: int = 0
    updates: int = 0
    updates_toast_unchanged: int = 0
    updates_notes: int = 0
    deletes: int = 0
    reinserts: int = 0
    moved_week: int = 0
    moved_quarter: int = 0
    transactions: int = 0
    rollbacks: int = 0
    savepoint_rollbacks: int = 0
    lost_connections: int = 0
    in_doubt: int = 0
    refused: int = 0
    longest_refusal_ms: float = 0.0
    switches: int = 0
    on_base: int = 0
    errors: int = 0
    last_error: str = ""
    seconds: float = 0.0

    def add(self, counts: Counter[str]) -> None:
        """Add one transaction's counts by field name."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> TrafficStats:
        """The inverse of `to_json`."""
        return cls(**json.loads(line))
