"""The command line `migration-assets`: the group, how its errors are shown, and the commands for a first look.

Settings, embedded servers, preflight, demo and UI are here; the other commands are in `terminal`, one module a topic.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click
import psycopg
from rich.table import Table

from migration_assets.domain.errors import MigrationError, NoRoomError, SettingsError
from migration_assets.domain.findings import blocking
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.server_messages import COMMITTED_STAYS, clean, on_side, server_error, told
from migration_assets.preflight.run import examine
from migration_assets.runtime import dagster_environment, keep_files_private, open_migration
from migration_assets.settings import PREFIX, MigrationSettings, load_settings
from migration_assets.terminal.archive import adopt_archive_of, archive, query, restore, retire
from migration_assets.terminal.cutover import cutover, cutovers, hold_again, release_writes, rollback
from migration_assets.terminal.dashboard import status
from migration_assets.terminal.decommission import abandon, decommission
from migration_assets.terminal.evidence import evidence, ledger
from migration_assets.terminal.figures import gigabytes
from migration_assets.terminal.output import complain, console
from migration_assets.terminal.proof import repair, repair_legacy, sign_off, validate
from migration_assets.terminal.readiness import accept, print_findings, readiness
from migration_assets.terminal.stream import alert, stream

# Classes of SQLSTATE: connection failed, login refused, server shutting down. Not 57014 (canceled) and 53 (no room).
_UNREACHABLE = ("08", "28", "57P")


class _Readable(click.Group):
    """Shows errors as text and ends with exit code 2, since 1 is an answer: "not equal", "not ready"."""

    def invoke(self, ctx: click.Context) -> object:
        if not _is_text(ctx.args):
            complain(
                "An argument has bytes that are not UTF-8.\nNext: type it again, in a terminal that is set to UTF-8."
            )
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except MigrationError as error:
            complain(f"{type(error).__name__}: {error}")
        except psycopg.Error as error:
            complain(_of_server(error))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader has closed the pipe, as `| head` does: click then exits silently
            complain(f"{type(error).__name__}: {clean(str(error))}\nNext: mend the cause, then run this again.")
        except Exception as error:  # noqa: BLE001
            complain(_bug(error))


def _is_text(words: Sequence[str]) -> bool:
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_server(error: psycopg.Error) -> str:
    shown = server_error(error, next_step="mend the cause, then run this again.")
    if isinstance(shown, NoRoomError):
        return f"{type(shown).__name__}: {shown}"
    if (error.sqlstate or _UNREACHABLE[0]).startswith(_UNREACHABLE):
        return (
            f"PostgreSQL{on_side(error)}: {told(error)}\nNext: check that both servers run and that the URLs are right."
        )
    return str(shown)


def _bug(error: Exception) -> str:
    """The error's type and place, for a report. Its text is left out, since it may hold rows."""
    places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)]
    return (
        f"{type(error).__name__}, which was not expected, at {' < '.join(reversed(places[-8:]))}\n"
        f"State left: {COMMITTED_STAYS}.\n"
        "Next: `migration-assets status` shows the state of the migration; report the first line: it is a bug."
    )


@click.group(cls=_Readable)
@click.version_option(package_name="migration-assets")
def main() -> None:
    """Move one huge PostgreSQL table into a base partitioned by fiscal quarter and week."""


@main.command()
def settings() -> None:
    """List the settings: variables, values (never secrets) and meanings."""
    loaded = load_settings()
    table = Table(show_lines=False)
    for column in ("variable", "value", "meaning"):
        table.add_column(column, overflow="fold")
    for name, field in MigrationSettings.model_fields.items():
        table.add_row(f"{PREFIX}{name}".upper(), str(getattr(loaded, name)), field.description or "")
    console.print(table)


@main.group()
def servers() -> None:
    """Start, stop and remove the embedded PostgreSQL servers of the demo."""


def _embedded() -> EmbeddedServers:
    loaded = load_settings()
    if not loaded.embedded:
        raise SettingsError(
            f"{PREFIX}LEGACY_URL and {PREFIX}BASE_URL point at real databases",
            where="servers",
            state_left="nothing was touched",
            next_step="unset both to work with the embedded servers",
        )
    keep_files_private(loaded)
    return EmbeddedServers(loaded.var)


@servers.command()
def start() -> None:
    """Start both servers; safe to repeat."""
    embedded = _embedded()
    embedded.start()
    _print_servers(embedded)


@servers.command()
def stop() -> None:
    """Stop both servers; the data stays."""
    embedded = _embedded()
    embedded.stop()
    _print_servers(embedded)


@servers.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(yes: bool) -> None:
    """Stop both servers and delete their data."""
    embedded = _embedded()
    if not yes:
        click.confirm(f"Delete the embedded databases and {embedded.var}?", abort=True)
    embedded.remove()
    console.print("The embedded servers and their data were removed.")


@servers.command("status")
def servers_status() -> None:
    """Show both servers."""
    _print_servers(_embedded())


def _print_servers(embedded: EmbeddedServers) -> None:
    statuses = embedded.status()
    if not statuses:
        console.print("The embedded servers were never started: `migration-assets servers start`.")
        return
    table = Table()
    for column in ("server", "PostgreSQL", "address", "running", "pid", "size", "data"):
        table.add_column(column, overflow="fold")
    for one in statuses:
        table.add_row(
            one.name, one.version, f"127.0.0.1:{one.port}", "yes" if one.running else "no",
            str(one.pid or ""), gigabytes(one.size_bytes), str(one.data_folder),
        )  # fmt: skip
    console.print(table)


@main.command()
@click.option("--all", "everything", is_flag=True, help="Also show what is in order.")
def preflight(everything: bool) -> None:
    """Examine both databases; exit code 1 if a finding blocks the migration."""
    examined = examine(open_migration(load_settings()))
    print_findings(console, examined.findings, everything=everything)
    if examined.quarters:
        console.print(f"Quarters in the legacy: {', '.join(quarter.key for quarter in examined.quarters)}.")
    if blocking(examined.findings):
        sys.exit(1)


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Number of bookings in the legacy.")
@click.option("--seed", default=20240624, show_default=True, help="The same seed and rows give the same bookings.")
@click.option("--rate", default=50.0, show_default=True, help="Live traffic, in transactions a second.")
@click.option("--until", default="decommissioned", show_default=True, help="The chapter that the demo ends with.",
              type=click.Choice(["signed-off", "archived", "decommissioned"]))  # fmt: skip
def demo(rows: int, seed: int, rate: float, until: str) -> None:
    """Migrate a made-up legacy on the embedded servers under live traffic, up to the decommission."""
    from migration_assets.demo.story import run_demo  # noqa: PLC0415  Dagster takes seconds to import
    from migration_assets.demo.summary import Chapter, Story  # noqa: PLC0415

    embedded = _embedded()
    if not run_demo(console, load_settings(), embedded, Story(rows, seed, rate, Chapter(until))):
        sys.exit(1)


@main.command()
@click.option("--port", default=3000, show_default=True, help="Of the web page.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; everybody who reaches it may do everything.",
)
@click.option("--read-only", is_flag=True, help="The page shows and starts nothing; the daemon works as ever.")
def ui(port: int, host: str, read_only: bool) -> None:
    """Run Dagster's UI and daemon for the migration; starts the embedded servers where they are used."""
    from migration_assets.terminal.ui import serve_ui  # noqa: PLC0415  Dagster takes seconds to import

    loaded = load_settings()
    keep_files_private(loaded)  # before the first file is written
    if loaded.embedded:
        EmbeddedServers(loaded.var).start()
    os.environ.update(dagster_environment(loaded))
    serve_ui(loaded, host, port, read_only=read_only)


for command in (
    status, stream, validate, repair, sign_off, archive, adopt_archive_of, retire, restore, query, readiness, cutover,
    rollback, release_writes, hold_again, repair_legacy, cutovers, decommission, abandon, evidence, alert, accept,
    ledger,
):  # fmt: skip
    main.add_command(command)

if __name__ == "__main__":
    main()
