"""`status`, once or live."""

from datetime import timedelta

import click

from migration_assets.commands.opening import opened
from migration_assets.ledger.own_objects import ledger_version
from migration_assets.ledger.schema import require_ledger
from migration_assets.terminal.output import console, say
from migration_assets.terminal.status import status_page
from migration_assets.terminal.watching import watch_base
from migration_assets.watch.overview import read_overview


@click.command()
@click.option("--watch", is_flag=True, help="A live dashboard, until Ctrl-C.")
@click.option(
    "--every", default=1.0, show_default=True, type=click.FloatRange(0.1, 3600), help="Seconds between two looks."
)
def status(watch: bool, every: float) -> None:
    """Show weeks, states, proofs, the stream and what its cuts cost."""
    migration = opened()
    if watch:
        watch_base(console, migration.settings, every=every)
        return
    with migration.databases.session("base", "status") as base:
        if not ledger_version(base):
            say("The base has no ledger yet: nothing was migrated to it. Begin with `migration-assets preflight`; then"
                " materialize quarter_partitions in the UI.")  # fmt: skip
            return
        require_ledger(base)
        overview = read_overview(base, migration.spec)
    console.print(status_page(overview, timedelta(hours=migration.settings.validation_max_age_hours)))
