"""How the reverse stream is while the base is in charge: a rollback rests on it, and its slot keeps WAL on the base."""

from dataclasses import dataclass, replace

from psycopg.rows import dict_row

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names, reverse_worker
from migration_assets.cutover.work import forward_names
from migration_assets.domain.cutover_sample import ReverseSample
from migration_assets.ledger.cutover_facts import in_charge
from migration_assets.ledger.stream import StreamNames
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.stream.heartbeats import reverse_arrived, send_reverse_marker
from migration_assets.stream.server_markers import MarkersWatch

_SLOT = """
SELECT r.slot_name IS NOT NULL AS slot_exists, r.active AS slot_active, r.wal_status,
       pg_wal_lsn_diff(pg_current_wal_lsn(), r.restart_lsn)::bigint AS retained_wal_bytes
FROM (SELECT) one LEFT JOIN pg_replication_slots r ON r.slot_name = %s
"""
_ERRORS = """
SELECT t.apply_error_count FROM pg_subscription p JOIN pg_stat_subscription_stats t ON t.subid = p.oid
WHERE p.subname = %s AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


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
        seen = replace(slot_of_reverse(base, names), **look_from_legacy(legacy, names))
        seen = measure_reverse(base, legacy, plan.relation, seen, seconds=plan.lag_seconds)
    return ReverseHealth(
        bool(seen.subscription_enabled),
        bool(seen.worker_runs),
        bool(seen.arrived),
        seen.retained_wal_bytes,
        seen.wal_status,
    )


def slot_of_reverse(base: Connected, names: StreamNames) -> ReverseSample:
    """The base's part."""
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_SLOT, [names.slot]).fetchone()
    return ReverseSample(names.subscription, **(row or {}))


def look_from_legacy(legacy: Connected, names: StreamNames) -> dict[str, bool | int | None]:
    """The legacy's part, by the fields of `ReverseSample`."""
    worker = reverse_worker(legacy, names)
    errors = legacy.execute(_ERRORS, [names.subscription]).fetchone()
    return {
        "subscription_exists": worker is not None,
        "subscription_enabled": worker is not None and worker.enabled,
        "worker_runs": worker is not None and worker.pid is not None,
        "apply_errors": int(errors[0]) if errors else None,
    }


def measure_reverse(
    base: Connected, legacy: Connected, relation: str, seen: ReverseSample, *, seconds: float, keep: float = 3600.0
) -> ReverseSample:
    """Send a marker and wait for it for at most `seconds`; where none can arrive, only say how old the oldest is.

    Where one is under way and nobody fetches it, no more are sent. Those older than `keep` seconds go, once they are
    on the legacy. Where the markers say that something was skipped, both streams are barred.

    Raises:
        psycopg.Error: A server is away, or does not take or show markers.
    """
    can_arrive = seen.subscription_enabled and seen.slot_exists and seen.wal_status != "lost"
    sent, markers = _newest_sent(base, relation), None
    if sent <= _newest_arrived(legacy, relation) or (can_arrive and seen.worker_runs):
        markers = MarkersWatch.begin(base, base, legacy, relation, "base")
        sent = send_reverse_marker(base, relation)
    arrived = wait_until(lambda: reverse_arrived(legacy, relation, sent), seconds=seconds if can_arrive else 0.0)
    before = sent - 1 if arrived else _newest_arrived(legacy, relation)
    lag = _age_of_oldest(base, relation, before)
    # Where nobody compares them none go: one that never arrived is all that tells of a change that was skipped.
    if arrived and markers is not None and not markers.arrived():
        base.execute(
            "DELETE FROM migration.reverse_markers WHERE relation = %s AND id < %s"
            " AND sent_at < clock_timestamp() - %s * interval '1 second'",
            [relation, sent, keep],
        )
    worker = reverse_worker(legacy, StreamNames(seen.name, seen.name, seen.name))
    runs = arrived or bool(seen.worker_runs) or (worker is not None and worker.pid is not None)
    return replace(seen, arrived=arrived, lag_seconds=lag, worker_runs=runs)


def _newest_sent(base: Connected, relation: str) -> int:
    row = base.execute(
        "SELECT coalesce(max(id), 0) FROM migration.reverse_markers WHERE relation = %s", [relation]
    ).fetchone()
    return int(require_row(row, "the newest reverse marker")[0])


def _newest_arrived(legacy: Connected, relation: str) -> int:
    # The same table; on the legacy it has what came through.
    return _newest_sent(legacy, relation)


def _age_of_oldest(base: Connected, relation: str, after: int) -> float | None:
    """Seconds by the base's clock since the oldest marker after that one was sent."""
    row = base.execute(
        "SELECT extract(epoch FROM clock_timestamp() - min(sent_at))::float8 FROM migration.reverse_markers"
        " WHERE relation = %s AND id > %s",
        [relation, after],
    ).fetchone()
    age = require_row(row, "the oldest reverse marker")[0]
    return None if age is None else max(0.0, float(age))
