"""One look at the change stream for a person: judged by the rules of the watch, but neither stored nor sent."""

from dataclasses import dataclass, replace

import psycopg

from migration_assets.domain.alerting import Alert
from migration_assets.domain.errors import ForeignObjectError
from migration_assets.domain.stream_rules import View
from migration_assets.domain.stream_sample import StreamSample
from migration_assets.domain.stream_thresholds import Severity, StreamThresholds, high_change
from migration_assets.domain.stream_watch import Problem, evaluate
from migration_assets.domain.wal_room import minutes_of_room
from migration_assets.ledger.samples import open_alerts, read_samples
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.stream import StreamRecord, read_stream
from migration_assets.postgres.server_messages import told
from migration_assets.runtime import Migration
from migration_assets.watch.look import Ahead, LookLimits, observe_stream

_HISTORY = 100


@dataclass(frozen=True)
class Observed:
    """What was seen, what is wrong with it, and what the watch has raised already.

    Attributes:
        sample: The look.
        problems: What is wrong now, the worst first.
        thresholds: What was judged by.
        high_change: `month end` or `quarter end` where they were stricter.
        record: The ledger's, None where there is none, or no base to ask.
        weeks: How many weeks of which quarters are under CDC: keys and numbers.
        alerts: Those that are open.
        room_minutes: Until the slot's limit is reached; None where that is not known.
    """

    sample: StreamSample
    problems: tuple[Problem, ...]
    thresholds: StreamThresholds
    high_change: str | None
    record: StreamRecord | None = None
    weeks: tuple[tuple[str, int], ...] = ()
    alerts: tuple[Alert, ...] = ()
    room_minutes: float | None = None

    @property
    def critical(self) -> bool:
        """Whether something is critical."""
        return any(problem.severity is Severity.CRITICAL for problem in self.problems)


def observe(migration: Migration) -> Observed:
    """Look at both sides once, of at most some seconds; a side that is away is a problem, not an error.

    Raises:
        LedgerError: The ledger is newer than this program.
        SettingsError: A connection URL cannot be read.
    """
    settings, relation = migration.settings, migration.spec.relation
    limits = LookLimits(heartbeat_seconds=settings.heartbeat_seconds)
    sample = observe_stream(migration.databases, migration.spec, limits, Ahead(migration.calendar, migration.now()))
    today = migration.now().astimezone(migration.calendar.zone).date()
    busy = high_change(today, migration.calendar, settings.watch_days)
    thresholds = migration.thresholds.stricter(settings.watch_factor) if busy else migration.thresholds
    known = Observed(sample, (), thresholds, busy)
    history: list[StreamSample] = []
    if sample.base_error is None and sample.status is not None:
        try:
            with migration.databases.session("base", "stream status", or_standby=True) as base:
                ensure_ledger(base)
                history = read_samples(base, relation, limit=_HISTORY)
                under_cdc = [record.week.quarter.key for record in read_slices(base, relation)
                             if record.under_cdc]  # fmt: skip
                known = replace(
                    known,
                    record=read_stream(base, relation),
                    weeks=tuple((key, under_cdc.count(key)) for key in dict.fromkeys(under_cdc)),
                    alerts=open_alerts(base, relation),
                )
        except (psycopg.Error, ForeignObjectError) as error:  # for the look it could be asked
            sample = replace(sample, base_error=told(error))
    raised = {alert.code: alert.severity for alert in known.alerts}
    problems = evaluate(View(sample, history, thresholds, raised, migration.settings.own_schema)).problems
    return replace(
        known,
        sample=sample,
        problems=tuple(sorted(problems, key=lambda problem: problem.severity is not Severity.CRITICAL)),
        room_minutes=minutes_of_room(sample, history, thresholds.legacy_wal_disk_gb),
    )
