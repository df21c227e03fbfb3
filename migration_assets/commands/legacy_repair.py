"""`repair-legacy`: while the base is in charge, makes the legacy's rows those of the base."""

import shlex

import click

from migration_assets.commands.opening import opened
from migration_assets.commands.periods import confirm_deletes, parse_weeks
from migration_assets.cutover import repairing_legacy as steps
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.terminal.differences import differences_table
from migration_assets.terminal.output import console, say


@click.command("repair-legacy")
@click.argument("periods", nargs=-1, metavar="QUARTER [WEEK | WEEK-WEEK]...")
@click.option("--apply", "do_it", is_flag=True, help="Mend it; without this nothing is changed.")
@click.option("--outside", is_flag=True, help="Rows of the legacy at times that no week has, instead of weeks.")
@confirm_deletes
@click.option("--confirm-outside", type=int, default=0, metavar="ROWS", help="So many rows may go with --outside.")
@click.option("--undo", type=int, metavar="ID", help="Put back what repair ID changed on the legacy.")
def repair_legacy(
    periods: tuple[str, ...],
    do_it: bool,
    outside: bool,
    undo: int | None,
    confirmed: dict[FiscalWeek, int],
    confirm_outside: int,
) -> None:
    """While the base is in charge: show what differs on the legacy, and with --apply make it as the base has it.

    Shows keys and columns, never values. A rollback finds the weeks equal afterwards.
    """
    if undo is not None:
        if do_it or outside or periods:
            raise click.UsageError("--undo ID stands alone: the repair knows its weeks.")
        with console.status(f"Undoing repair {undo}"):
            places = steps.undo_legacy_repair(opened(), undo)
        say(f"Undone on the legacy: {', '.join(places)}. They differ as before.", "yellow")
        return
    if outside:
        if periods:
            raise click.UsageError("--outside stands alone: these rows are in no week.")
        _outside(do_it=do_it, confirmed=confirm_outside)
        return
    if not periods:
        raise click.UsageError("Name a quarter, and its weeks where not all are meant: FY25-Q2 W05.")
    weeks = parse_weeks(periods)
    with console.status(f"{'Repairing' if do_it else 'Looking at'} {len(weeks)} weeks of the legacy"):
        done = steps.repair_legacy(opened(), weeks, dry_run=not do_it, confirmed_deletes=confirmed)
    differing = [one for one in done if one.differences.rows]
    for one in differing:
        console.print(differences_table(one.week.key, one.differences, side="legacy"))
    if not differing:
        say(f"{len(done)} of {len(done)} weeks of the legacy are as the base has them.", "green")
    elif do_it:
        ids = [one.repair_id for one in differing]
        say(
            f"Repaired: the legacy has these weeks as the base has them (repairs {', '.join(map(str, ids))})."
            f" `migration-assets repair-legacy --undo {ids[0]}` takes all of it back.",
            "green",
        )
    else:
        names = " ".join(one.week.name for one in differing)
        quarters = {one.week.quarter for one in differing}
        again = f"{differing[0].week.quarter.key} {names}" if len(quarters) == 1 else shlex.join(periods)
        say(f"Nothing was changed. `migration-assets repair-legacy {again} --apply` mends it.", "yellow")


def _outside(*, do_it: bool, confirmed: int) -> None:
    with console.status("Looking for rows of the legacy that are in no week"):
        done = steps.repair_outside(opened(), dry_run=not do_it, confirmed=confirmed)
    for one in done.found:
        console.print(str(one))
    if not done.found:
        say("Every row of the legacy is in a week.", "green")
    elif done.repair_id is not None:
        undo = f"`migration-assets repair-legacy --undo {done.repair_id}` puts them back."
        say(f"Taken off the legacy (repair {done.repair_id}). {undo}", "green")
    else:
        say("Nothing was changed. `migration-assets repair-legacy --outside --apply` takes them off.", "yellow")
