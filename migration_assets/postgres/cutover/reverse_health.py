"""How the reverse stream is while the base is in charge: a rollback rests on it, and its slot keeps WAL on the base."""

from dataclasses import dataclass

from migration_assets.postgres.cutover.plan import CutoverPlan
from migration_assets.postgres.cutover.records import in_charge
from migration_assets.postgres.cutover.reverse import (
    reverse_arrived,
    reverse_names,
    reverse_worker,
    send_reverse_marker,
)
from migration_assets.postgres.cutover.work import forward_names
from migration_assets.postgres.retries import wait_until


@dataclass(frozen=True)
class ReverseHealth:
    """`arrives`: a marker came through in time. `retained_wal_bytes`: on the base; None where the slot is gone."""

    enabled: bool
    running: bool
    arrives: bool
    retained_wal_bytes: int | None
    wal_status: str | None

    @property
    def healthy(self) -> bool:
        """Whether a rollback would find everything on the legacy."""
        return self.enabled and self.arrives and self.wal_status not in {None, "lost", "unreserved"}


def look_at_reverse(plan: CutoverPlan) -> ReverseHealth | None:
    """None while the legacy is in charge.

    Raises:
        psycopg.OperationalError: A server cannot be reached.
    """
    with (
        plan.stream.databases.session("base", "cutover:watch") as base,
        plan.stream.databases.session("legacy", "cutover:watch") as legacy,
    ):
        if in_charge(base, plan.relation) == "legacy":
            return None
        names = reverse_names(forward_names(base, plan.relation))
        marker = send_reverse_marker(base, plan.relation)
        arrives = wait_until(lambda: reverse_arrived(legacy, plan.relation, marker), seconds=plan.lag_seconds)
        worker = reverse_worker(legacy, names)
        slot = base.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status"
            " FROM pg_replication_slots WHERE slot_name = %s",
            [names.slot],
        ).fetchone()
        # Each look leaves one; a rollback waits for markers of its own only.
        base.execute(
            "DELETE FROM migration.reverse_markers WHERE relation = %s AND sent_at < clock_timestamp() - interval '1h'",
            [plan.relation],
        )
    return ReverseHealth(
        worker is not None and worker.enabled,
        worker is not None and worker.pid is not None,
        arrives,
        int(slot[0]) if slot and slot[0] is not None else None,
        str(slot[1]) if slot else None,
    )
