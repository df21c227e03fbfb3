"""The commands `decommission` and `abandon`: the two ways in which a migration ends."""

import sys
from functools import partial

import click

from migration_assets.abandon.abandon import Abandoned, abandon_migration, clean_legacy
from migration_assets.decommission.step import Decommissioning, call_off_decommission
from migration_assets.decommission.step import decommission as make_inactive
from migration_assets.domain.states import Scope
from migration_assets.terminal.arguments import asks, confirm, opened, typed
from migration_assets.terminal.output import say

_IDENTITIES = {"default": "d", "nothing": "n", "full": "f"}


@click.command()
@click.option("--approved-by", default="", metavar="NAME", help="The person who approves it.")
@click.option("--note", default="", help="Anything that belongs to the approval.")
@click.option(
    "--scope",
    type=click.Choice(["database", "table"]),
    help="What is closed; by default the database if nothing else is in it, otherwise the table.",
)
@click.option(
    "--accept-stale",
    is_flag=True,
    help="Go on although the reverse stream is lost and no rollback is possible any more.",
)
@click.option("--call-off", is_flag=True, help="Call off a decommission whose process died before anything was closed.")
@click.option("--yes", is_flag=True, help="Do it; without this only show what would be done.")
@confirm
def decommission(
    approved_by: str, note: str, scope: Scope | None, accept_stale: bool, call_off: bool, yes: bool, code: str
) -> None:
    """Make the legacy inactive: the only step without a way back. Its data is never deleted.

    Without --yes it shows what stands in the way (exit code 1 if something does), or the code that --yes asks for.
    """
    migration = opened()
    if call_off:
        gone = call_off_decommission(migration)
        say("It was called off: the reverse stream goes on." if gone else "No decommission was begun.")
        return
    run = partial(make_inactive, migration, approved_by, note=note, scope=scope, accept_stale=accept_stale, on_step=say)
    if yes and not code and asks():
        plan = run(dry_run=True)
        code = typed(plan.confirmation, "close the legacy, with no way back") if plan.confirmation else ""
    done = run(dry_run=not yes, confirm=code)
    if done.done:
        _print_result(done)
    else:
        _print_plan(done)


def _print_plan(done: Decommissioning) -> None:
    say(f"Nothing was changed. The decommission of the legacy of {done.relation} would do this,")
    say(f"with scope {done.scope} ({done.why}):")
    for number, what in enumerate(done.steps, 1):
        say(f"{number:3}. {what}")
    for one in done.obstacles:
        say(f"In the way: {one.what}.", "yellow")
        say(f"    Remedy: {one.remedy}.")
    if done.obstacles:
        sys.exit(1)
    say("Nothing stands in the way. --yes does it, and there is no way back.", "green")
    if done.confirmation is not None:
        say(f"Needed for that: --confirm {done.confirmation}.")


def _print_result(done: Decommissioning) -> None:
    record = done.record
    if record is None:
        return
    total = record.final["total"]
    say(
        f"The legacy of {done.relation} is decommissioned ({done.scope}), approved by {record.approved_by}, since"
        f" {record.finished_at:%Y-%m-%d %H:%M:%S} UTC: {int(total['rows']):,} rows, which nobody can change."
    )
    for one in done.still_open:
        say(f"Still open: {one}.", "yellow")
    say("To open it again for reading, a DBA runs there:")
    for statement in done.reopening:
        say(f"    {statement}")
    if done.needless:
        say("Our role on the base no longer needs these; a DBA takes them back:")
        for statement in done.needless:
            say(f"    {statement}")


@click.command()
@click.option("--yes", is_flag=True, help="Do it; without this only show what would be done.")
@click.option("--legacy-only", is_flag=True, help="The base is lost for good: clean up the legacy only.")
@click.option("--name", help="With --legacy-only: the name of publication and slot, if there are several.")
@click.option(
    "--identity", help="With --legacy-only: the replica identity from before: default, nothing, full, or an index."
)
@confirm
def abandon(yes: bool, legacy_only: bool, name: str | None, identity: str | None, code: str) -> None:
    """Undo an unfinished migration: the legacy is as it was before; the base keeps its rows and follows nothing.

    Without --yes it shows what would be done, and the code that --yes asks for.
    """
    if (name or identity) and not legacy_only:
        raise click.UsageError("--name and --identity go with --legacy-only: otherwise the base's ledger knows them")
    migration = opened()
    if legacy_only:
        former = _IDENTITIES.get(identity.lower(), f"i:{identity}") if identity else None
        run = partial(clean_legacy, migration, name=name, former_identity=former, on_step=say)
    else:
        run = partial(abandon_migration, migration, on_step=say)
    if yes and not code and asks():
        plan = run(apply=False)
        _print_abandoned(plan)
        code = typed(plan.confirmation, "abandon the migration") if plan.confirmation else ""
    _print_abandoned(run(apply=yes, confirm=code))


def _print_abandoned(done: Abandoned) -> None:
    if not done.applied:
        say(f"Nothing was changed. Abandoning the migration of {done.relation} would do this:")
        for number, what in enumerate(done.done, 1):
            say(f"{number:3}. {what}")
    for note in done.notes:
        say(f"Note: {note}", "yellow")
    if done.applied:
        say(f"The migration of {done.relation} is abandoned; its rows stay in the base, which follows nothing.")
    else:
        say("--yes does it.")
    if done.confirmation is not None:
        say(f"Needed for that: --confirm {done.confirmation}.")
