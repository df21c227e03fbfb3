"""The sensors that run from the first day: watch the change stream, open quarters ahead of need, report failed runs.

- `change_stream_monitor` looks at the stream every half minute, keeps each look and raises alerts.
- `quarter_opener` adds the partition keys of the next quarters and launches the runs that open them.
- `run_failure_alert` sends asset, partition and the first lines of the error of a failed run, without secrets.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg
import psycopg

from migration_assets.defs.change_stream import change_stream
from migration_assets.defs.partitions import QUARTERS_NAME, fiscal_quarters
from migration_assets.defs.resources import MigrationSource
from migration_assets.defs.runs import UNFINISHED
from migration_assets.defs.shown import look_metadata
from migration_assets.defs.slices import quarter_partitions
from migration_assets.domain.alerting import Alert, dump_alerts, load_alerts
from migration_assets.domain.confirmation import SHOWN_CODE
from migration_assets.domain.errors import ForeignObjectError, MigrationError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.ledger.schema import has_ledger
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.stream import read_stream
from migration_assets.postgres.server_messages import told
from migration_assets.quarters.opening import Opening, Outlook, look_ahead
from migration_assets.runtime import Migration
from migration_assets.watch.notify import send_failure
from migration_assets.watch.watching import Watched, watch_stream

WATCH_EVERY_SECONDS = 30
OPENER_EVERY_SECONDS = 60
OPENS_TAG = "migration_assets/opens"
# A run that failed, or did not open what it was launched for, is not requested again earlier.
RETRY_AFTER = timedelta(hours=1)
_PARTITION_TAG = "dagster/partition"
_SHOWN_LINES = 6
# Our own errors hold no secrets; those of others may quote a URL or a connection string.
_SECRETS = (
    (re.compile(r"(?<=://)[^\s/@]*@"), "***@"),
    (re.compile(r"(password\s*=\s*)('[^']*'|\S+)", re.IGNORECASE), r"\1***"),
    # A confirmation code is only for people who look at the page of the run.
    (SHOWN_CODE, "the code on the run's page"),
)


@dataclass(frozen=True)
class _Memory:
    """What one tick passes to the next: the quarters under CDC, the open alerts, and whether a stream was begun."""

    quarters: tuple[str, ...] = ()
    alerts: tuple[Alert, ...] = ()
    begun: bool = False

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        if not cursor:
            return cls()
        stored = json.loads(cursor)
        return cls(tuple(stored["quarters"]), load_alerts(stored["alerts"]), stored["begun"])

    def __str__(self) -> str:
        return json.dumps({"quarters": self.quarters, "alerts": dump_alerts(self.alerts), "begun": self.begun})


# Without a stream it only asks the base whether one was begun, and the legacy whether it refuses writes.
@dg.sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    minimum_interval_seconds=WATCH_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Looks at the change stream: lag, retained WAL, apply errors, changes by hand. While the base is in charge it"
        " looks at the reverse stream instead, and in every case at writes that are held. Keeps each look in the"
        " ledger, shows it as an observation of change_stream, which plots over time, and sends alerts to"
        " MIGRATION_ALERT_URLS. Skips with the reason if there is no stream or a server does not answer."
    ),
)
def change_stream_monitor(
    context: dg.SensorEvaluationContext, migration_source: dg.ResourceParam[MigrationSource]
) -> dg.SensorResult | dg.SkipReason:
    """Look once."""
    memory = _Memory.parse(context.cursor)
    try:
        migration = migration_source.open()
    except MigrationError as error:
        return dg.SkipReason(f"nothing to watch: {told(error)}")
    try:
        quarters = _quarters_under_cdc(migration)
    except (psycopg.Error, ForeignObjectError):  # watch_stream meets the same error and reports it
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
    """The keys of the quarters under CDC, oldest first; None if no stream was ever begun."""
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
        *(
            f"channel {delivery.channel} was not reached: {delivery.error}"
            for delivery in watched.sent
            if delivery.error
        ),
    ]
    return "; ".join(parts)


# Until people have opened a first quarter it only asks the base whether there is one.
@dg.sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    minimum_interval_seconds=OPENER_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    asset_selection=dg.AssetSelection.assets(quarter_partitions, change_stream),
    description=(
        "Looks MIGRATION_RUNWAY_DAYS ahead and keeps MIGRATION_RUNWAY_QUARTERS quarters open, the current one included:"
        " adds their partition keys and launches quarter_partitions, followed by change_stream if there is a stream, so"
        " that bookings of a new quarter are replicated from the first second. While the base is in charge they only"
        " need a leaf, and the legacy is not asked. Skips with the length of the runway, or with the reason why nothing"
        " can be done. A failed run is repeated after an hour."
    ),
)
def quarter_opener(
    context: dg.SensorEvaluationContext, migration_source: dg.ResourceParam[MigrationSource]
) -> dg.SensorResult | dg.SkipReason:
    """Look ahead once, and request the runs that are needed."""
    try:
        outlook = look_ahead(migration_source.open())
    except (MigrationError, psycopg.OperationalError) as error:
        return dg.SkipReason(f"the runway cannot be determined: {told(error)}")
    if outlook.obstacle:
        return dg.SkipReason(outlook.obstacle)
    keys = _missing_keys(context.instance, outlook)
    requests: list[dg.RunRequest] = []
    reasons: list[str] = []
    for opening in outlook.openings:
        request = _request(context.instance, opening)
        if isinstance(request, dg.RunRequest):
            requests.append(request)
        else:
            reasons.append(request)
    reason = "; ".join([*reasons, *outlook.waiting, f"the runway is {outlook.runway}"])
    if not keys and not requests:
        return dg.SkipReason(reason)
    return dg.SensorResult(
        run_requests=requests,
        # Dagster accepts a skip reason only without run requests.
        skip_reason=None if requests else dg.SkipReason(reason),
        dynamic_partitions_requests=[fiscal_quarters.build_add_request(keys)] if keys else [],
    )


def _missing_keys(instance: dg.DagsterInstance, outlook: Outlook) -> list[str]:
    """Keys that Dagster lacks, oldest first, since it shows keys in the order in which they were added."""
    known = set(instance.get_dynamic_partitions(QUARTERS_NAME))
    wanted = {*outlook.opened, *(opening.quarter for opening in outlook.openings)}
    return [quarter.key for quarter in sorted(wanted) if quarter.key not in known]


def _request(instance: dg.DagsterInstance, opening: Opening) -> dg.RunRequest | str:
    """A run request, or the reason why there is none yet.

    The run key counts the earlier runs, so that a tick that is evaluated twice requests one run.
    """
    quarter, selection = opening.quarter, [quarter_partitions.key, *([change_stream.key] if opening.join else [])]
    if _is_under_way(instance, quarter):
        return f"a run for {quarter.key} is under way"
    what = f"{quarter.key}:{'+'.join(key.to_user_string() for key in selection)}"
    earlier = instance.get_run_records(dg.RunsFilter(tags={OPENS_TAG: what}))
    ended = _last_end(earlier)
    if ended is not None and datetime.now(UTC) < ended + RETRY_AFTER:
        return f"{opening.why}; the last run for it ended at {ended:%H:%M} UTC, the next is due an hour later"
    return dg.RunRequest(
        run_key=f"{what}#{len(earlier) + 1}",
        partition_key=quarter.key,
        asset_selection=selection,
        tags={OPENS_TAG: what},
    )


def _is_under_way(instance: dg.DagsterInstance, quarter: FiscalQuarter) -> bool:
    """Whether a run of the quarter is not over, whether a sensor or a person launched it."""
    tags = {_PARTITION_TAG: quarter.key}
    return bool(instance.get_runs(dg.RunsFilter(tags=tags, statuses=UNFINISHED), limit=1))


def _last_end(records: Sequence[dg.RunRecord]) -> datetime | None:
    # A run that Dagster gave up on may have no end time.
    ends = [datetime.fromtimestamp(r.end_time, UTC) if r.end_time else r.update_timestamp for r in records]
    return max((end if end.tzinfo else end.replace(tzinfo=UTC) for end in ends), default=None)


@dg.run_failure_sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    name="run_failure_alert",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Sends asset, partition and the first lines of the error of every failed run to MIGRATION_ALERT_URLS."
    ),
)
def run_failure_alert(context: dg.RunFailureSensorContext, migration_source: dg.ResourceParam[MigrationSource]) -> None:
    """Send one message for a failed run."""
    title, body = failure_message(context.dagster_run, failed_steps(context))
    try:
        sent = send_failure(migration_source.open(), title, body)
    except MigrationError as error:
        context.log.error("nobody was told of %r: %s", title, error)  # noqa: TRY400 - the text says enough
        return
    if not sent:
        context.log.info("MIGRATION_ALERT_URLS is not set, nobody was told: %s", title)
    for delivery in sent:
        if not delivery.delivered:
            context.log.error("channel %s was not told: %s", delivery.channel, delivery.error)


def failed_steps(context: dg.RunFailureSensorContext) -> dict[str, str]:
    """The error's text by step; for a run that ended before its first step the message of its failure event."""
    found: dict[str, str] = {}
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            text = data.user_failure_data.description
        else:
            error = data.error and (data.error.cause or data.error)
            text = error.message if error else "no error was recorded"
        found[event.step_key or "?"] = text
    return found or {"the run": context.failure_event.message or "no error was recorded"}


def failure_message(run: dg.DagsterRun, steps: dict[str, str]) -> tuple[str, str]:
    """Title and text of the message, without secrets."""
    partition = run.tags.get(_PARTITION_TAG)
    title = f"[FAILED] {', '.join(steps)}" + (f" {partition}" if partition else "")
    texts = [_first_lines(text) for text in steps.values()]
    return title, "\n".join([*texts, f"Job {run.job_name}, run {run.run_id}."])


def _first_lines(text: str) -> str:
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    lines = text.strip().splitlines()
    return "\n".join([*lines[:_SHOWN_LINES], *(["…"] if len(lines) > _SHOWN_LINES else [])])
