"""Work that Dagster starts by itself: the rotating validation of weeks under CDC, and archiving by age.

`ongoing_validation` is a schedule, `retention` a sensor that looks every quarter of an hour; both are stopped until a
person starts them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import psycopg

from migration_assets.copying.throttle import ThrottleLimits, throttle
from migration_assets.defs.archives import parquet_archive, retired_slice
from migration_assets.defs.jobs import validate_slices
from migration_assets.defs.partitions import partition_key, register_quarters
from migration_assets.defs.resources import MigrationSource
from migration_assets.defs.runs import UNFINISHED
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.states import instant_text
from migration_assets.ledger.charge import base_in_charge_since
from migration_assets.ledger.schema import has_ledger
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.stream import StreamStatus, read_stream
from migration_assets.postgres.server_messages import told
from migration_assets.proof.validation import Candidate, next_in_turn
from migration_assets.retirement.policy import DueWeek, Step, due_weeks
from migration_assets.runtime import Migration

EVERY_QUARTER_OF_AN_HOUR = "*/15 * * * *"
EVERY_SECONDS = 15 * 60


@dataclass(frozen=True)
class _Seen:
    """The weeks under CDC; `obstacle` says why none of them may be validated now."""

    weeks: Sequence[SliceRecord]
    obstacle: str | None = None


# Stopped until a person starts it: it reads the legacy, and only people know how much of that is acceptable.
@dg.schedule(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    cron_schedule=EVERY_QUARTER_OF_AN_HOUR,
    job=validate_slices,
    description=(
        "Validates weeks under CDC in rotation, the oldest validation first, at most MIGRATION_ONGOING_VALIDATION_ROWS"
        " per tick, and none while a MIGRATION_THROTTLE_* limit is exceeded or the stream does not run. Start it when"
        " the first quarter is under CDC."
    ),
)
def ongoing_validation(
    context: dg.ScheduleEvaluationContext, migration_source: dg.ResourceParam[MigrationSource]
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request one run for each week whose turn it is."""
    try:
        migration = migration_source.open()
        seen = _see(migration)
    except (MigrationError, psycopg.OperationalError) as error:
        return dg.SkipReason(f"the weeks cannot be read: {told(error)}")
    if seen.obstacle:
        return dg.SkipReason(seen.obstacle)
    running = _unfinished_partitions(context.instance, job_name=validate_slices.name)
    chosen = next_in_turn(
        [
            Candidate(
                record.week,
                record.base.rows if record.base else 0,
                record.validated.at if record.validated else None,
                busy=record.working or record.week.key in running,
            )
            for record in seen.weeks
        ],
        budget_rows=migration.settings.ongoing_validation_rows,
    )
    if not chosen:
        return dg.SkipReason("every week under CDC is being worked on already")
    register_quarters(context.instance, {week.quarter for week in chosen})
    # A tick that is evaluated twice requests the same runs.
    tick = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
    return [dg.RunRequest(run_key=f"{week.key}@{tick}", partition_key=partition_key(week)) for week in chosen]


def _see(migration: Migration) -> _Seen:
    relation = migration.spec.relation
    with migration.databases.session("base", "rotation") as base:
        stream = read_stream(base, relation) if has_ledger(base) else None
        if stream is None:
            return _Seen((), "nothing is under CDC: no change stream was begun yet")
        since = base_in_charge_since(base, relation)
        if since is not None:
            return _Seen((), f"the base is in charge since {instant_text(since)}: there is nothing to validate against")
        weeks = [record for record in read_slices(base, relation) if record.under_cdc]
    if not weeks:
        return _Seen((), "nothing is under CDC")
    if stream.status is not StreamStatus.LIVE:
        return _Seen(weeks, f"the change stream is {stream.status} ({stream.reason or 'no reason noted'})")
    with throttle(migration.databases, relation, ThrottleLimits.of(migration.settings)) as throttled:
        reasons = throttled.reasons()
    return _Seen(weeks, f"held back: {'; '.join(reasons)}" if reasons else None)


@dg.sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    asset_selection=[parquet_archive, retired_slice],
    minimum_interval_seconds=EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "Launches parquet_archive for signed-off weeks older than MIGRATION_RETENTION_QUARTERS (while the base is in"
        " charge: for all weeks of that age), and again for weeks that received a late booking since. With"
        " MIGRATION_AUTO_RETIRE it also retires archived weeks from the base, and drops them when their quarantine is"
        " over. A week whose run failed is tried again once a day."
    ),
)
def retention(
    context: dg.SensorEvaluationContext, migration_source: dg.ResourceParam[MigrationSource]
) -> dg.SensorResult | dg.SkipReason:
    """Request a run for each week that is due and not being worked on."""
    try:
        migration = migration_source.open()
        due = due_weeks(migration)
    except (MigrationError, psycopg.OperationalError) as error:
        return dg.SkipReason(f"what is due cannot be determined: {told(error)}")
    if not due.weeks:
        return dg.SkipReason(due.why_nothing)
    busy = _unfinished_partitions(context.instance)
    requests = list(_requests(migration, [one for one in due.weeks if partition_key(one.week) not in busy]))
    if not requests:
        return dg.SkipReason(f"{len(due.weeks)} weeks are due, and all of them are being worked on")
    register_quarters(context.instance, {one.week.quarter for one in due.weeks})
    return dg.SensorResult(run_requests=requests)


def _requests(migration: Migration, weeks: list[DueWeek]) -> Iterator[dg.RunRequest]:
    today = f"{migration.now():%Y-%m-%d}"
    for one in weeks:
        asset, config = _asset_of(one)
        yield dg.RunRequest(
            # A new reason makes the week due at once; a failed run for the same reason is repeated the next day.
            run_key=f"{one.step.value}:{one.week.key}:{one.why}:{today}",
            partition_key=partition_key(one.week),
            asset_selection=[asset.key],
            run_config={"ops": {asset.op.name: {"config": config}}} if config else {},
            tags={"migration_assets/why": one.why[:200]},
        )


def _asset_of(one: DueWeek) -> tuple[dg.AssetsDefinition, Mapping[str, object]]:
    if one.step is Step.ARCHIVE:
        return parquet_archive, {}
    return retired_slice, {"dry_run": False}


def _unfinished_partitions(instance: dg.DagsterInstance, job_name: str | None = None) -> set[str]:
    """The partition keys of runs that are not over, of one job or of all."""
    runs = instance.get_runs(filters=dg.RunsFilter(job_name=job_name, statuses=UNFINISHED))
    return {run.tags.get("dagster/partition", "") for run in runs}
