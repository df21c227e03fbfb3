"""Opens the next quarters by itself, ahead of need: partition keys, places in the base, and the change stream."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg

from migration_assets.defs.assets.change_stream import change_stream
from migration_assets.defs.assets.quarter_partitions import quarter_partitions
from migration_assets.defs.partitions import QUARTERS_NAME, fiscal_quarters
from migration_assets.defs.resources import MigrationSource
from migration_assets.defs.runs import UNFINISHED
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.postgres.server_messages import told
from migration_assets.quarters.outlook import Opening, Outlook, look_ahead

EVERY_SECONDS = 60
OPENS_TAG = "migration_assets/opens"
# A run that failed, or did not bring what it was asked for, is not asked for again before.
RETRY_AFTER = timedelta(hours=1)


# Running from the first day: until a quarter was opened by people it only asks the base whether one was.
@dg.sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    minimum_interval_seconds=EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    asset_selection=dg.AssetSelection.assets(quarter_partitions, change_stream),
    description=(
        "Looks MIGRATION_RUNWAY_DAYS ahead, and keeps MIGRATION_RUNWAY_QUARTERS quarters open, today's included: adds"
        " their partition keys and launches quarter_partitions, with change_stream behind it where there is a stream:"
        " bookings of a new quarter flow from their first second. While the base is in charge a leaf is all that they"
        " need, and nobody asks the legacy. Skips, saying how far the runway reaches, or why"
        " nothing can be done. What failed is tried again after an hour."
    ),
)
def quarter_opener(
    context: dg.SensorEvaluationContext, migration_source: dg.ResourceParam[MigrationSource]
) -> dg.SensorResult | dg.SkipReason:
    """One look ahead."""
    try:
        outlook = look_ahead(migration_source.open())
    except (MigrationError, psycopg.OperationalError) as error:
        return dg.SkipReason(f"cannot look ahead: {told(error)}")
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
        # Together with requests Dagster takes no reason.
        skip_reason=None if requests else dg.SkipReason(reason),
        dynamic_partitions_requests=[fiscal_quarters.build_add_request(keys)] if keys else [],
    )


def _missing_keys(instance: dg.DagsterInstance, outlook: Outlook) -> list[str]:
    """Of every quarter that is open or is to be, oldest first: Dagster shows keys in the order of their insertion."""
    known = set(instance.get_dynamic_partitions(QUARTERS_NAME))
    wanted = {*outlook.opened, *(opening.quarter for opening in outlook.openings)}
    return [quarter.key for quarter in sorted(wanted) if quarter.key not in known]


def _request(instance: dg.DagsterInstance, opening: Opening) -> dg.RunRequest | str:
    """A run, or why there is to be none yet.

    The key counts the runs that there were, so that a tick that is evaluated twice asks for one run.
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
    """Whoever launched it."""
    tags = {"dagster/partition": quarter.key}
    return bool(instance.get_runs(dg.RunsFilter(tags=tags, statuses=UNFINISHED), limit=1))


def _last_end(records: Sequence[dg.RunRecord]) -> datetime | None:
    # A run that Dagster gave up on may have no end.
    ends = [datetime.fromtimestamp(r.end_time, UTC) if r.end_time else r.update_timestamp for r in records]
    return max((end if end.tzinfo else end.replace(tzinfo=UTC) for end in ends), default=None)
