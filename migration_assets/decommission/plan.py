"""Which legacy is decommissioned, and after how much time."""

from collections.abc import Callable
from dataclasses import dataclass

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Connected


@dataclass(frozen=True)
class DecommissionPlan:
    """One table's. `quiet_days` 0: whether anybody reads the legacy is not asked.

    `accept_stale`: the reverse stream need not be whole; for one that cannot be mended any more. `on_begin` is called
    with the session on the base in the transaction that begins it; what it raises ends it, and it never began.
    """

    cutover: CutoverPlan
    window_days: float
    quiet_days: float
    accept_stale: bool = False
    on_begin: Callable[[Connected], None] | None = None

    @property
    def relation(self) -> str:
        """The table's key in the ledger."""
        return self.cutover.relation

    @property
    def spec(self) -> TableSpec:
        """Table and control column."""
        return self.cutover.stream.spec
