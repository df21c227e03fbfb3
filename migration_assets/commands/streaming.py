"""`stream status|pause|resume|start` and `alert test`."""

import sys

import click

from migration_assets.commands.opening import opened
from migration_assets.commands.periods import confirm_deletes, parse_quarter
from migration_assets.cutover.recovering import ReverseRecovered
from migration_assets.cutover.recovery import recover_stream
from migration_assets.domain.errors import SettingsError
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.stream.streaming import pause_stream, resume_stream, start_stream
from migration_assets.terminal.joining import print_joined, weeks_progress
from migration_assets.terminal.output import console, say
from migration_assets.terminal.stream_health import health_page
from migration_assets.watch.observation import observe
from migration_assets.watch.watching import send_test_alert


@click.group()
def stream() -> None:
    """The change stream: how it is, and its brake."""


@stream.command("status")
def stream_status() -> None:
    """Look at both sides now; exit code 1 where something is critical. Tells nobody else."""
    migration = opened()
    with console.status("Looking at both sides"):
        observed = observe(migration)
    console.print(health_page(observed))
    if observed.critical:
        sys.exit(1)


@stream.command()
@click.option("--reason", required=True, help="Why; everybody who looks at the stream is told.")
def pause(reason: str) -> None:
    """Stop the stream until somebody resumes it; the legacy keeps its WAL meanwhile."""
    if not reason.strip():
        raise click.BadParameter("say why: whoever finds the stream standing will want to know", param_hint="--reason")
    say(pause_stream(opened(), reason.strip()))


@stream.command()
@confirm_deletes
def resume(confirmed: dict[FiscalWeek, int]) -> None:
    """Let the stream go on; a join that was never finished is finished by a rebuild."""
    migration = opened()
    with console.status("Letting the stream go on"):
        done = resume_stream(migration, confirmed_deletes=confirmed)
    say(done)


@stream.command("start")
@click.argument("quarter")
@click.option("--rebuild", is_flag=True, help="A new slot, and every week under CDC trued up against it.")
@confirm_deletes
def stream_start(quarter: str, rebuild: bool, confirmed: dict[FiscalWeek, int]) -> None:
    """Bring a quarter whose weeks are copied under CDC."""
    wanted = parse_quarter(quarter)
    migration = opened()
    with weeks_progress(console, f"{wanted.key}: weeks under CDC") as on_week:
        joined = start_stream(migration, wanted, rebuild=rebuild, on_week=on_week, confirmed_deletes=confirmed)
    print_joined(console, joined)


@stream.command("recover")
@click.option("--by", required=True, help="Who says that these are the servers from now on.")
@confirm_deletes
def stream_recover(by: str, confirmed: dict[FiscalWeek, int]) -> None:
    """After a failover, a restore or a move of a server: begin anew, every week trued up, nothing thrown away.

    Of the side that follows; what it has and the side in charge has not is kept in the ledger's table repaired_rows.
    """
    migration = opened()
    with weeks_progress(console, "weeks under CDC") as on_week:
        joined = recover_stream(migration, by, on_week=on_week, confirmed_deletes=confirmed)
    if joined is None:
        say("both servers are those that the stream was built on: there is nothing to recover", "green")
    elif isinstance(joined, ReverseRecovered):
        changed = [one for one in joined.weeks if one.repair_id is not None]
        say(f"the legacy follows again from {joined.lsn} on; {len(joined.weeks)} weeks were compared")
        for one in changed:
            say(f"{one.week.key}: {one.differences} on the legacy, kept as repair {one.repair_id}")
    else:
        print_joined(console, joined)


@click.group()
def alert() -> None:
    """Where alerts go."""


@alert.command("test")
def alert_test() -> None:
    """Send a text to every channel; exit code 1 where one did not take it. Never prints a URL."""
    sent = send_test_alert(opened())
    if not sent:
        raise SettingsError(
            "MIGRATION_ALERT_URLS is not set: alerts reach nobody",
            where="settings",
            state_left="nothing was sent",
            next_step="set it to apprise URLs, separated by spaces",
        )
    for delivery in sent:
        outcome = "delivered" if delivery.delivered else f"NOT delivered: {delivery.error}"
        say(f"channel {delivery.channel}: {outcome}", "green" if delivery.delivered else "red")
    if not all(delivery.delivered for delivery in sent):
        sys.exit(1)
