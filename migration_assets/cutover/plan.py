"""Which cutover is meant, and how patient and how careful it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from migration_assets.domain.cutover_state import CutoverKind, CutoverState, SideName
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.plan import StreamPlan

Switch = Callable[[SideName, int], None]
OnState = Callable[[CutoverKind, CutoverState], None]
OnBegin = Callable[[Connected, int], None]


@dataclass(frozen=True)
class CutoverPlan:
    """One table's cutover or rollback.

    `timeout_seconds` bounds the time in which no side accepts writes; `patience_seconds` how long a small lag (a marker
    that arrives within `lag_seconds`) and a moment between writers are waited for before that. `sequence_margin` are
    keys left out on the target. `compare_all`: every week under CDC is compared while writes are held; else only those
    whose leaf changed since they were last validated. `switch` tells the applications which side they belong to, and
    raises where it cannot. `base_url_for_legacy` is the base as the legacy's own server reaches it. `on_state` is told
    every state before its deed, mostly while writes are held: it must be quick; what it raises is ignored. `on_begin`
    is called with the session on the base and the record's id in the transaction that makes the record, before anything
    is touched; what it raises ends the cutover, which then never was.
    """

    stream: StreamPlan
    timeout_seconds: float = 60.0
    lag_seconds: float = 5.0
    patience_seconds: float = 60.0
    sequence_margin: int = 1000
    compare_all: bool = True
    switch: Switch | None = None
    base_url_for_legacy: str | None = field(default=None, repr=False)
    on_state: OnState | None = None
    on_begin: OnBegin | None = None

    @property
    def relation(self) -> str:
        """The table's key in the ledger."""
        return self.stream.relation
