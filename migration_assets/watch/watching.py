"""The watch over the change stream: look, judge, store, and send what is due; and one look for a person.

A person's look is judged by the same rules, but neither stored nor sent.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg

from migration_assets.domain.alerting import Alert, AlertPolicy, Event, Message, advance, mark_sent
from migration_assets.domain.errors import ForeignObjectError, ServerChangedError
from migration_assets.domain.samples import ProblemCode, Severity, StreamSample, StreamThresholds, high_change
from migration_assets.domain.stream_view import minutes_of_room
from migration_assets.domain.stream_watch import Problem, View, evaluate
from migration_assets.ledger.samples import (
    open_alerts,
    prune_samples,
    read_samples,
    save_alerts,
    store_sample,
    watch_lease,
)
from migration_assets.ledger.schema import ensure_ledger, prune_ledger
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.stream import StreamRecord, read_stream
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected
from migration_assets.runtime import Migration
from migration_assets.watch.legacy_reads import note_legacy_reads
from migration_assets.watch.look import Ahead, LookLimits, observe_stream
from migration_assets.watch.notify import Delivery, Kind, send

_HISTORY = 100
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """What one watch saw and did.

    Attributes:
        sample: The look.
        problems: What is wrong now.
        open: Every open alert afterwards; hand it to the next watch as `remembered`.
        raised: Alerts that are new, or worse than they were.
        cleared: Alerts that have ended.
        messages: The messages that were due.
        sent: The result of sending, channel by channel; empty if no channels are set.
        stored: Whether the ledger has the sample and the alerts.
        note: Why not, or what else is unusual; None on an ordinary watch.
        high_change: `month end` or `quarter end` if the thresholds were stricter for that reason.
        idle: There is nothing to watch; `note` says why.
    """

    sample: StreamSample
    problems: tuple[Problem, ...] = ()
    open: tuple[Alert, ...] = ()
    raised: tuple[Alert, ...] = ()
    cleared: tuple[Alert, ...] = ()
    messages: tuple[Message, ...] = ()
    sent: tuple[Delivery, ...] = ()
    stored: bool = False
    note: str | None = None
    high_change: str | None = None
    idle: bool = False


def watch_stream(migration: Migration, remembered: Sequence[Alert] = (), *, begun: bool = True) -> Watched:
    """Look once and send the alerts that are due.

    A legacy that refuses writes is reported even if there is no stream.

    Args:
        migration: The migration.
        remembered: The open alerts after the last watch: while the base is away, only they tell what was already sent.
        begun: Whether a stream is known to exist; if not, an unreachable base is not reported.

    Raises:
        LedgerError: The ledger is newer than this program.
    """
    limits = LookLimits(heartbeat_seconds=migration.settings.heartbeat_seconds)
    sample = observe_stream(migration.databases, migration.spec, limits, Ahead(migration.calendar, migration.now()))
    idle = _idle(sample, remembered, begun=begun)
    if idle is not None:
        return Watched(sample, note=idle, idle=True)
    standby: str | None = None
    if sample.base_error is None and (sample.cutover is None or sample.cutover.ledger):
        try:
            with migration.databases.session("base", "watch") as base:
                return _watch_with_ledger(migration, base, sample, remembered)
        except (psycopg.Error, ForeignObjectError) as error:  # during the look it answered
            sample = replace(sample, base_error=told(error))
        except ServerChangedError as error:  # a standby answers; the look reports that, too
            standby = error.what
    why = standby or ("the base has no ledger" if sample.base_error is None else "the base cannot be asked")
    log.warning("%s, and this look is not stored%s", why, f": {sample.base_error}" if sample.base_error else "")
    note = f"{why}: neither the look nor its alerts could be stored"
    judged = replace(_judge(migration, sample, (), tuple(remembered)), note=note)
    return _tell(migration, judged)


def _idle(sample: StreamSample, remembered: Sequence[Alert], *, begun: bool) -> str | None:
    """Return why there is nothing to watch; None if there is."""
    cutover = sample.cutover
    known = any(alert.code is ProblemCode.WRITES_HELD for alert in remembered)
    if known or (cutover is not None and cutover.worth_watching):
        return None
    if sample.base_error is None:
        return "no change stream was begun yet" if sample.status is None else None
    return None if begun else f"the base is away, and no stream was seen so far: {sample.base_error}"


def _watch_with_ledger(
    migration: Migration, base: Connected, sample: StreamSample, remembered: Sequence[Alert]
) -> Watched:
    ensure_ledger(base)
    relation = sample.relation
    with watch_lease(base, relation) as mine:
        history = read_samples(base, relation, limit=_HISTORY)
        known = {alert.code: alert for alert in open_alerts(base, relation)}
        # Adds what was seen while nothing could be stored; for everything else the ledger is newer than the memory.
        last = history[-1].taken_at if history else None
        known.update({alert.code: alert for alert in remembered if last is None or alert.seen_at > last})
        judged = _judge(migration, sample, history, tuple(known.values()))
        if not mine:
            note = "another watch is at work and sends the alerts"
            return Watched(sample, judged.problems, tuple(known.values()), note=note, high_change=judged.high_change)
        store_sample(base, sample)
        save_alerts(base, relation, (*judged.open, *judged.cleared))
        watched = replace(_tell(migration, judged), stored=True)
        try:
            save_alerts(base, relation, watched.open)
        except psycopg.Error as error:
            log.warning("alerts were sent, and that could not be stored: %s", told(error))
            return replace(watched, note="alerts were sent, and that could not be stored: they may be sent again")
        # Last: alerts must neither wait for it nor be lost where it fails.
        note = _prune(migration, base)
        note_legacy_reads(migration)
    return replace(watched, note=note)


def _prune(migration: Migration, base: Connected) -> str | None:
    """Remove old rows from the ledger; return why that failed, or None. The next watch tries again."""
    relation, settings = migration.spec.relation, migration.settings
    try:
        prune_samples(base, relation, settings.sample_days)
        prune_ledger(base, relation, record_days=settings.record_days, image_days=settings.repair_image_days)
    except psycopg.Error as error:
        log.warning("old rows could not be removed from the ledger: %s", told(error))
        return f"old rows could not be removed from the ledger: {told(error)}"
    return None


def _judge(
    migration: Migration, sample: StreamSample, history: Sequence[StreamSample], known: tuple[Alert, ...]
) -> Watched:
    """Do everything but send: `messages` are due, and the alerts in `open` are not marked as sent yet."""
    settings = migration.settings
    today = migration.now().astimezone(migration.calendar.zone).date()
    busy = high_change(today, migration.calendar, settings.watch_days)
    thresholds = migration.thresholds.stricter(settings.watch_factor) if busy else migration.thresholds
    before = {alert.code: alert.severity for alert in known}
    evaluation = evaluate(View(sample, history, thresholds, before, migration.settings.own_schema))
    policy = AlertPolicy(realert=timedelta(minutes=settings.realert_minutes))
    step = advance(known, evaluation, sample.taken_at, relation=sample.relation, policy=policy)
    raised = tuple(
        alert
        for alert in step.open
        if alert.code not in before or (alert.severity, before[alert.code]) == (Severity.CRITICAL, Severity.WARNING)
    )
    return Watched(sample, evaluation.problems, step.open, raised, step.cleared, step.messages, (), high_change=busy)


def _tell(migration: Migration, judged: Watched) -> Watched:
    """Send what is due; a message that no channel accepted is due again at the next watch."""
    urls = _channels(migration)
    sent: list[Delivery] = []
    told: list[Message] = []
    for message in judged.messages:
        log.log(
            logging.INFO if message.event is Event.CLEARED else logging.WARNING, "%s: %s", message.title, message.body
        )
        deliveries = send(urls, message.title, message.body, _kind(message))
        sent.extend(deliveries)
        if not urls or any(delivery.delivered for delivery in deliveries):
            told.append(message)
    return replace(judged, open=mark_sent(judged.open, told, judged.sample.taken_at), sent=tuple(sent))


def _kind(message: Message) -> Kind:
    if message.event is Event.CLEARED:
        return "success"
    return "failure" if message.alert.severity is Severity.CRITICAL else "warning"


def _channels(migration: Migration) -> tuple[str, ...]:
    return tuple(url.get_secret_value() for url in migration.settings.alert_urls)


def send_test_alert(migration: Migration) -> tuple[Delivery, ...]:
    """Send a test text to every channel; the result is empty if MIGRATION_ALERT_URLS is not set."""
    return send(
        _channels(migration),
        f"[TEST] change stream of {migration.spec.relation}",
        f"A test of migration_assets' alerts, sent {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC. Nothing is wrong.",
        "info",
    )


@dataclass(frozen=True)
class Observed:
    """What was seen, what is wrong with it, and what the watch has raised already.

    Attributes:
        sample: The look.
        problems: What is wrong now, the worst first.
        thresholds: The thresholds that were applied.
        high_change: `month end` or `quarter end` if the thresholds were stricter for that reason.
        record: The stream's record in the ledger; None if there is none or the base does not answer.
        weeks: The number of weeks under CDC by quarter: pairs of quarter key and number.
        alerts: The open alerts.
        room_minutes: Minutes until the slot's limit is reached; None if that is not known.
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
        """Whether at least one problem is critical."""
        return any(problem.severity is Severity.CRITICAL for problem in self.problems)


def observe(migration: Migration) -> Observed:
    """Look at both sides once, for at most some seconds; a side that is away is reported as a problem, not raised.

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
        except (psycopg.Error, ForeignObjectError) as error:  # during the look it answered
            sample = replace(sample, base_error=told(error))
    raised = {alert.code: alert.severity for alert in known.alerts}
    problems = evaluate(View(sample, history, thresholds, raised, migration.settings.own_schema)).problems
    return replace(
        known,
        sample=sample,
        problems=tuple(sorted(problems, key=lambda problem: problem.severity is not Severity.CRITICAL)),
        room_minutes=minutes_of_room(sample, history, thresholds.legacy_wal_disk_gb),
    )
