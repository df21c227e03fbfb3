"""The part of a look that is about cutovers: who is in charge, who refuses writes, and the reverse stream.

A rollback rests on the reverse stream, and its slot keeps WAL on the base.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import psycopg
from psycopg.rows import dict_row

from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.reverse import reverse_names, reverse_worker
from migration_assets.cutover.work import forward_names
from migration_assets.cutover.writes import HeldWrites, SideWrites, find_held, find_held_alone, read_writes
from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.samples import CutoverSample, HeldSample, ReverseSample
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.charge import CutoverFacts, in_charge, read_cutover_facts
from migration_assets.ledger.stream import StreamNames, names_of, read_stream, stream_names
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.quarters.fences import unguarded_tables
from migration_assets.quarters.runway import lost_leaves
from migration_assets.stream.heartbeats import MarkersWatch, reverse_arrived, send_reverse_marker

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
    """The state of the reverse stream.

    Attributes:
        enabled: Whether the subscription on the legacy is there and enabled.
        running: Whether it has an apply worker.
        arrives: Whether a marker came through in time.
        retained_wal_bytes: WAL that the slot keeps on the base; None where the slot is gone.
        wal_status: As PostgreSQL's `pg_replication_slots` has it; None where the slot is gone.
    """

    enabled: bool
    running: bool
    arrives: bool
    retained_wal_bytes: int | None
    wal_status: str | None

    @property
    def healthy(self) -> bool:
        """Whether a rollback would find on the legacy everything that was written to the base."""
        return self.enabled and self.arrives and self.wal_status not in {None, "lost", "unreserved"}


def look_at_reverse(plan: CutoverPlan) -> ReverseHealth | None:
    """Measure the reverse stream; None while the legacy is in charge.

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
    """The part that the base tells."""
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_SLOT, [names.slot]).fetchone()
    return ReverseSample(names.subscription, **(row or {}))


def look_from_legacy(legacy: Connected, names: StreamNames) -> dict[str, bool | int | None]:
    """The part that the legacy tells, by the fields of `ReverseSample`."""
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
    """Send a marker along the reverse stream, wait for it, and measure the lag.

    Where no marker can arrive, only the age of the oldest one under way is measured. Where one is under way and there
    is no worker to fetch it, no further one is sent. Markers that arrived and are older than `keep` are deleted. Where
    the markers show that a change was skipped, both streams are barred.

    Args:
        base: Sends the marker.
        legacy: Receives it.
        relation: The table's key in the ledger.
        seen: What is known of the stream so far.
        seconds: How long to wait for the marker.
        keep: The age, in seconds, from which arrived markers are deleted.

    Returns:
        `seen`, with the lag and whether the marker arrived.

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
    # Not where the markers are not compared: a marker that never arrived is the only trace of a skipped change.
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
    # The same table; on the legacy it holds what arrived.
    return _newest_sent(legacy, relation)


def _age_of_oldest(base: Connected, relation: str, after: int) -> float | None:
    """The age, in seconds by the base's clock, of the oldest marker that was sent after that one."""
    row = base.execute(
        "SELECT extract(epoch FROM clock_timestamp() - min(sent_at))::float8 FROM migration.reverse_markers"
        " WHERE relation = %s AND id > %s",
        [relation, after],
    ).fetchone()
    age = require_row(row, "the oldest reverse marker")[0]
    return None if age is None else max(0.0, float(age))


_Read = TypeVar("_Read")
_SHOWN = 3
log = logging.getLogger(__name__)


@dataclass
class SidesAsked:
    """The two sessions of an observation, None where the side is away; `errors` says why, also of a lost session."""

    base: Connected | None
    legacy: Connected | None
    errors: dict[Side, str] = field(default_factory=dict[Side, str])

    def ask(self, side: Side, read: Callable[[Connected], _Read]) -> _Read | None:
        """Ask the side; None where it cannot be asked, or not any more."""
        connection = self.base if side == "base" else self.legacy
        if connection is None or side in self.errors:
            return None
        try:
            return read(connection)
        except psycopg.Error as error:
            self.errors[side] = told(error)
            log.info("the %s could not be asked: %s", side, told(error))
            return None


def observe_cutover(asked: SidesAsked, spec: TableSpec, facts: CutoverFacts | None, *, seconds: float) -> CutoverSample:
    """Observe the writes of both sides and the reverse stream.

    Args:
        asked: The sessions to use; what goes wrong with one is noted there.
        spec: Which table.
        facts: The ledger's facts at the beginning of the observation; None where the base could not be asked.
        seconds: How long to wait for a marker of the reverse stream.

    Returns:
        The sample; its `changed` says that the facts changed meanwhile, so that it may be inconsistent.
    """
    of_base = asked.ask("base", lambda base: read_writes(base, spec))
    of_legacy = asked.ask("legacy", lambda legacy: read_writes(legacy, spec))
    reverse: ReverseSample | None = None
    if facts is not None and facts.in_charge == "base" and facts.decommissioned is None:
        reverse = _reverse(asked, spec.relation, seconds)
    unguarded: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    if reverse is not None:
        unguarded = asked.ask("base", lambda base: unguarded_tables(base, spec.table)) or ()
        lost = asked.ask("base", lambda base: lost_leaves(base, spec)) or ()
    now = asked.ask("base", lambda base: read_cutover_facts(base, spec.relation))
    if facts is None or of_base is None or now is None:
        return _without_base(asked.errors.get("base", ""), of_legacy)
    in_charge = of_base if facts.in_charge == "base" else of_legacy
    return CutoverSample(
        in_charge=facts.in_charge,
        since=facts.since,
        cutover=facts.cutover,
        approved_by=facts.approved_by,
        under_way=facts.under_way,
        stream_barred=facts.stream_barred,
        accepts=None if in_charge is None else not in_charge.refuses,
        held=_sample(find_held(facts, of_base, of_legacy)),
        legacy_accepts=None if of_legacy is None else of_legacy.exists and bool(of_legacy.gaps),
        legacy_gaps="; ".join(of_legacy.gaps) if of_legacy is not None else "",
        unguarded=_shortened(unguarded, ", "),
        lost_leaves=_shortened(lost, "; "),
        reverse=reverse,
        decommissioned=facts.decommissioned,
        changed=now != facts,
        ledger=facts.ledger,
    )


def _shortened(found: Sequence[str], between: str) -> str:
    first, more = found[:_SHOWN], len(found) - _SHOWN
    return between.join(first) + (f" and {more} more" if more > 0 else "")


def _without_base(error: str, of_legacy: SideWrites | None) -> CutoverSample:
    if of_legacy is None:
        return CutoverSample(in_charge=None)
    held = find_held_alone(of_legacy, error)
    return CutoverSample(
        in_charge=None, accepts=held is None, held=_sample(held), legacy_accepts=bool(of_legacy.gaps), ledger=False
    )


def _sample(held: HeldWrites | None) -> HeldSample | None:
    return None if held is None else HeldSample(held.side, held.seconds, held.what, held.next_step)


def _reverse(asked: SidesAsked, relation: str, seconds: float) -> ReverseSample | None:
    names = asked.ask("base", lambda base: _names(base, relation))
    if names is None:
        return None
    seen = asked.ask("base", lambda base: slot_of_reverse(base, names))
    found = asked.ask("legacy", lambda legacy: look_from_legacy(legacy, names))
    if seen is not None and found is None and seen.slot_exists and not seen.slot_active:
        seen = _mark_absence(asked, relation, seen)
    if seen is None or found is None or asked.base is None or asked.legacy is None:
        return seen
    seen = replace(seen, **found)
    try:
        return measure_reverse(asked.base, asked.legacy, relation, seen, seconds=seconds)
    except psycopg.Error as error:
        log.info("the reverse stream's lag could not be measured: %s", told(error))
        lost: Side | None = "base" if asked.base.broken else "legacy" if asked.legacy.broken else None
        if lost is not None:
            asked.errors[lost] = told(error)
            return seen
        return replace(seen, marker_error=told(error))
    except ServerChangedError as error:  # a standby answers; the sample reports that
        return replace(seen, marker_error=error.what)


def _mark_absence(asked: SidesAsked, relation: str, seen: ReverseSample) -> ReverseSample:
    """A slot that is moved onwards while nobody reads it is moved past a marker, and so that is found out.

    If somebody advances the slot meanwhile, it moves past this marker, which then never arrives: so the loss is
    noticed. A base that takes no marker, because its disk is full, does not count as away.
    """
    if asked.base is None or "base" in asked.errors:
        return seen
    try:
        send_reverse_marker(asked.base, relation)
    except psycopg.Error as error:
        log.info("no marker could be left for the legacy, which is away: %s", told(error))
        if not asked.base.broken:
            return replace(seen, marker_error=told(error))
        asked.errors["base"] = told(error)
    return seen


def _names(base: Connected, relation: str) -> StreamNames:
    stream = read_stream(base, relation)
    return reverse_names(names_of(stream) if stream else stream_names(base, relation))
