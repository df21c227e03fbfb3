"""What stands in the way of the decommissioning, as far as the two databases tell: all of it at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from migration_assets.cutover.observing import look_at_reverse
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names
from migration_assets.cutover.work import forward_names
from migration_assets.decommission.closing import scope_obstacles
from migration_assets.domain.states import Obstacle, Scope
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.cutovers import CutoverRecord, unfinished_cutover
from migration_assets.ledger.decommissions import current_cutover, read_decommission, seconds_since
from migration_assets.postgres.foreign_keys import read_foreign_keys
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected
from migration_assets.quarters.fences import gaps
from migration_assets.watch.legacy_reads import APART, ReadWatch, look_for_reads


@dataclass(frozen=True)
class DecommissionPlan:
    """One table's decommissioning.

    Attributes:
        cutover: The plan of the table's cutover.
        window_days: For how many days after the cutover a rollback has to stay possible.
        quiet_days: For how many days nobody may have read the legacy; 0 does not ask.
        accept_stale: The reverse stream need not be healthy; for one that cannot be repaired any more.
        on_begin: Called with the session on the base in the transaction that begins the decommissioning. If it raises,
            the transaction is rolled back and nothing was begun.
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


_DAY = 86_400.0


def find_obstacles(base: Connected, legacy: Connected, plan: DecommissionPlan, scope: Scope) -> list[Obstacle]:
    """All obstacles; empty where nothing stands in the way."""
    cutover = current_cutover(base, plan.relation)
    if cutover is None:
        what = "the legacy is in charge: its applications work on it"
        return [Obstacle("charge", what, "cut over first (materialize legacy_cutover)")]
    found = list(_settled(base, plan, cutover))
    found += _window(base, plan, cutover)
    found += _quiet(base, legacy, plan, cutover.id)
    found += _held(legacy, plan)
    found += _reverse(base, plan)
    found += _keys(legacy, plan)
    subscription = reverse_names(forward_names(base, plan.relation)).subscription
    return found + scope_obstacles(legacy, plan.spec, scope, subscription)


def _settled(base: Connected, plan: DecommissionPlan, cutover: CutoverRecord) -> Iterator[Obstacle]:
    left = unfinished_cutover(base, plan.relation)
    if left is not None:
        what = f"{left.kind} {left.id} is not finished: it is at {left.state}"
        yield Obstacle("unfinished", what, "let it end; where its process died: `migration-assets release-writes`")
    elif cutover.outcome != "succeeded":
        what = f"{cutover.kind} {cutover.id}, which put the base in charge, is {cutover.outcome}, not succeeded"
        yield Obstacle("unfinished", what, "roll back, and cut over again")


def _window(base: Connected, plan: DecommissionPlan, cutover: CutoverRecord) -> Iterator[Obstacle]:
    if cutover.opened_at is None:
        return
    left = plan.window_days * _DAY - seconds_since(base, cutover.opened_at)
    if left > 0:
        yield Obstacle(
            "window",
            f"a rollback is to be possible for {plan.window_days:g} days after the cutover of"
            f" {_moment(cutover.opened_at)}: {left / _DAY:.1f} days are left",
            "wait; MIGRATION_ROLLBACK_WINDOW_DAYS is the setting",
        )


def settled_reads(base: Connected, legacy: Connected, plan: DecommissionPlan, cutover: int) -> ReadWatch:
    """Look for reads of the legacy now; repeat while the look saw more reads than it can explain or confirm."""
    watch = first = look_for_reads(base, legacy, plan.spec, cutover)

    def calm() -> bool:
        nonlocal watch
        watch = look_for_reads(base, legacy, plan.spec, cutover)
        # A client's read appears in the statistics within that time.
        return not watch.unsettled and watch.seen_at - first.seen_at > APART

    if watch.unsettled and seconds_since(base, watch.watched_since) > plan.quiet_days * _DAY:
        wait_until(calm, seconds=3 * APART.total_seconds() + 2)
    return watch


def _quiet(base: Connected, legacy: Connected, plan: DecommissionPlan, cutover: int) -> Iterator[Obstacle]:
    if not plan.quiet_days:
        return
    watch = settled_reads(base, legacy, plan, cutover)
    if legacy.execute("SELECT current_setting('track_counts') = 'on'").fetchone() != (True,):
        what = "the legacy keeps no statistics: whether anybody reads it cannot be known"
        yield Obstacle("quiet", what, "set track_counts = on there (ALTER SYSTEM, reload), and wait")
        return
    days = f"{plan.quiet_days:g} days"
    rest = "MIGRATION_LEGACY_QUIET_DAYS is the setting, 0 asks nothing"
    if watch.last_read_at is not None and seconds_since(base, watch.last_read_at) < plan.quiet_days * _DAY:
        what = (
            f"the legacy was read at {_moment(watch.last_read_at)} by {watch.last_reader}; {days} of quiet are wanted"
        )
        yield Obstacle("quiet", what, f"switch that reader to the base, then wait; {rest}")
    elif watch.unsettled and watch.memory is not None and watch.memory.accepted is not None:
        what = f"the legacy seems to be read just now, by {watch.memory.suspects or 'somebody who was not seen'}"
        yield Obstacle("quiet", what, f"look again in a minute; {rest}")
    if seconds_since(base, watch.watched_since) < plan.quiet_days * _DAY:
        what = f"reads of the legacy are watched only since {_moment(watch.watched_since)}; {days} are wanted"
        remedy = f"let the sensor change_stream_monitor run, and wait; {rest}"
        yield Obstacle("watched", what, remedy)


def _held(legacy: Connected, plan: DecommissionPlan) -> Iterator[Obstacle]:
    found = gaps(legacy, plan.spec.table)
    if found:
        yield Obstacle(
            "hold",
            f"the legacy can be written to: {'; '.join(found)}",
            "run `migration-assets hold-again`; `migration-assets repair-legacy` shows what was written there",
        )


def _reverse(base: Connected, plan: DecommissionPlan) -> Iterator[Obstacle]:
    """The reverse stream must be healthy: else nobody knows what state of the base the legacy's fingerprints are of."""
    if plan.accept_stale or read_decommission(base, plan.relation) is not None:
        return  # a person accepted it, or an earlier run stopped the stream, and the next run handles that
    health = look_at_reverse(plan.cutover)
    if health is not None and not health.healthy:
        what = (
            "its slot is gone or lost" if health.wal_status in {None, "lost", "unreserved"}
            else "it is disabled" if not health.enabled else "a marker does not arrive"
        )  # fmt: skip
        yield Obstacle(
            "reverse",
            f"the reverse stream is not whole ({what}): the legacy does not have what the base has",
            "`migration-assets stream status` says why; where it cannot be repaired, no rollback is possible any more,"
            " and a stale legacy can be accepted (accept_stale)",
        )


def _keys(legacy: Connected, plan: DecommissionPlan) -> Iterator[Obstacle]:
    """Foreign keys of other tables to the legacy's: they would go on being checked against rows that never change."""
    for key in read_foreign_keys(legacy, plan.spec.table):
        if key.incoming and key.child != key.parent:
            yield Obstacle(
                "foreign_key",
                f"foreign key {key.label} points at the legacy's table, which has nothing of what the base got since",
                f"let the applications that write to {key.child} check in the base, then, in the legacy: {key.drop}",
            )


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
