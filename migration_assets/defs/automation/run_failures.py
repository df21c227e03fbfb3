"""Tells people of runs that failed: which asset, which partition, what its error says first. Never a secret."""

import re

import dagster as dg

from migration_assets.defs.resources import MigrationSource
from migration_assets.domain.confirmation import SHOWN_CODE
from migration_assets.domain.errors import MigrationError
from migration_assets.watch.telling import send_failure

_SHOWN_LINES = 6
_PARTITION_TAG = "dagster/partition"
# Our own errors hold none; those of others may quote a URL or a connection string.
_SECRETS = (
    (re.compile(r"(?<=://)[^\s/@]*@"), "***@"),
    (re.compile(r"(password\s*=\s*)('[^']*'|\S+)", re.IGNORECASE), r"\1***"),
    # A code is for whoever looks at the run's own page.
    (SHOWN_CODE, "the code on the run's page"),
)


@dg.run_failure_sensor(  # pyright: ignore[reportUnknownMemberType]  Dagster leaves a PathLike open
    name="run_failure_alert",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Tells MIGRATION_ALERT_URLS of every run that failed: asset, partition, and the first lines of its error."
    ),
)
def run_failure_alert(context: dg.RunFailureSensorContext, migration_source: dg.ResourceParam[MigrationSource]) -> None:
    """One message a failed run."""
    title, body = failure_message(context.dagster_run, failed_steps(context))
    try:
        sent = send_failure(migration_source.open(), title, body)
    except MigrationError as error:
        context.log.error("nobody was told of %r: %s", title, error)  # noqa: TRY400 - says itself what it is
        return
    if not sent:
        context.log.info("MIGRATION_ALERT_URLS is not set, nobody was told: %s", title)
    for delivery in sent:
        if not delivery.delivered:
            context.log.error("channel %s was not told: %s", delivery.channel, delivery.error)


def failed_steps(context: dg.RunFailureSensorContext) -> dict[str, str]:
    """Step → its error's text; a run that ended before its first step has what the run's own event says."""
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
    """Title and text."""
    partition = run.tags.get(_PARTITION_TAG)
    title = f"[FAILED] {', '.join(steps)}" + (f" {partition}" if partition else "")
    texts = [_first_lines(text) for text in steps.values()]
    return title, "\n".join([*texts, f"Job {run.job_name}, run {run.run_id}."])


def _first_lines(text: str) -> str:
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    lines = text.strip().splitlines()
    return "\n".join([*lines[:_SHOWN_LINES], *(["…"] if len(lines) > _SHOWN_LINES else [])])
