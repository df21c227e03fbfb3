"""What Dagster watches: the change stream, every half minute."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
import psycopg

from migration_assets.defs.assets.change_stream import change_stream
from migration_assets.defs.looks import look_metadata
from migration_assets.defs.resources import MigrationSource
from migration_assets.domain.alerting import Alert, dump_alerts, load_alerts
from migration_assets.domain.errors import ForeignObjectError, MigrationError
from migration_assets.ledger.schema import has_ledger
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.stream import read_stream
from migration_assets.postgres.server_messages import told
from migration_assets.runtime import Migration
from migration_assets.watch.watching import Watched, watch_stream

EVERY_SECONDS = 30


@dataclass(frozen=True)
class _Memory:
    """What one tick tells the next: quarters under CDC, none where there was no stream, and open alerts."""

    quarters: tuple[str, ...] = ()
    alerts: tuple[Alert, ...] = ()
    begun: bool = False

    @classmethod
    def parse(cls, cursor: str | None) -> "_Memory":
        if not cursor:
            return cls()
        stored = json.loads(cursor)
        return cls(tuple(stored["quarters"]), load_alerts(stored["alerts"]), stored["begun"])

    def __str__(self) -> str:
        return json.dumps({"quarters": self.quarters, "alerts": dump_alerts(self.alerts), "begun": self.begun})


# Running from the first day: where no stream was begun it only asks for one, and whether the legacy refuses writes.
@dg.sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    minimum_interval_seconds=EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Looks at the change stream: lag, retained WAL, apply errors, what was altered by hand; while the base is in"
        " charge at the reverse stream, and always at writes that are held. Keeps every look in the ledger, shows it as"
        " observations of change_stream, which plot over time, and alerts MIGRATION_ALERT_URLS."
        " Skips, saying why, where there is no stream or no server."
    ),
)
def change_stream_monitor(
    context: dg.SensorEvaluationContext, migration_source: dg.ResourceParam[MigrationSource]
) -> dg.SensorResult | dg.SkipReason:
    """One watch."""
    memory = _Memory.parse(context.cursor)
    try:
        migration = migration_source.open()
    except MigrationError as error:
        return dg.SkipReason(f"nothing to watch: {told(error)}")
    try:
        quarters = _quarters_under_cdc(migration)
    except (psycopg.Error, ForeignObjectError):  # the watch says what it is
        quarters = memory.quarters if memory.begun else None
    watched = watch_stream(migration, memory.alerts, begun=quarters is not None)
    if watched.idle:
        return dg.SkipReason(watched.note or "nothing to watch")
    begun = quarters is not None
    quarters = quarters or ()
    return dg.SensorResult(
        skip_reason=_summary(watched),
        cursor=str(_Memory(tuple(quarters), watched.open, begun=begun)),
        asset_events=[_observation(quarter, watched) for quarter in quarters] if watched.sample.status else [],
    )


def _quarters_under_cdc(migration: Migration) -> Sequence[str] | None:
    """Their keys, oldest first; None where no stream was ever begun."""
    relation = migration.spec.relation
    with migration.databases.session("base", "monitor", or_standby=True) as base:
        if not has_ledger(base) or read_stream(base, relation) is None:
            return None
        weeks = [record.week for record in read_slices(base, relation) if record.under_cdc]
    return [quarter.key for quarter in sorted({week.quarter for week in weeks})]


def _observation(quarter: str, watched: Watched) -> dg.AssetObservation:
    return dg.AssetObservation(
        asset_key=change_stream.key,
        partition=quarter,
        description=_summary(watched),
        metadata={
            **look_metadata(watched.sample),
            "problems": dg.MetadataValue.int(len(watched.problems)),
            "open_alerts": dg.MetadataValue.int(len(watched.open)),
        },
    )


def _summary(watched: Watched) -> str:
    lag, cutover = watched.sample.seconds_behind, watched.sample.cutover
    parts = [
        *([cutover.case] if cutover is not None and cutover.case else []),
        f"lag {lag:,.2f} s" if lag is not None else "lag not known",
        "; ".join(problem.what for problem in watched.problems) or "nothing is wrong",
        *([f"{watched.high_change}: stricter thresholds"] if watched.high_change else []),
        *([watched.note] if watched.note else []),
        *(f"channel {delivery.channel} not told: {delivery.error}" for delivery in watched.sent if delivery.error),
    ]
    return "; ".join(parts)
