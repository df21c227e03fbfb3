"""`accept`: a person answers for a finding that blocks."""

import click

from migration_assets.commands.opening import opened
from migration_assets.readiness.accepting import accept_finding, accepted, withdraw
from migration_assets.terminal.findings import print_acceptances
from migration_assets.terminal.output import console, say


@click.command()
@click.argument("code", required=False)
@click.argument("subject", required=False)
@click.option("--by", help="Who answers for it.")
@click.option("--reason", help="Why it may be so.")
@click.option("--withdraw", "taken_back", is_flag=True, help="Take it back: the finding blocks again.")
def accept(code: str | None, subject: str | None, by: str | None, reason: str | None, taken_back: bool) -> None:
    """Go on in spite of one finding about one thing; without arguments, list what was accepted.

    CODE and SUBJECT stand in the remedy that `preflight` or `readiness` prints.
    """
    if code is None:
        _list()
        return
    if subject is None:
        raise click.UsageError("name the finding's code and the thing that it is about")
    migration = opened()
    if taken_back:
        withdraw(migration, code, subject)
        say(f"{code} about {subject} blocks again.")
        return
    if not by or not reason:
        raise click.UsageError("--by and --reason are needed: somebody answers for it")
    accept_finding(migration, code, subject, by=by, reason=reason)
    say(f"{code} about {subject} is accepted by {by}; preflight and readiness show it as a warning from now on.")


def _list() -> None:
    found = accepted(opened())
    if not found:
        say("Nothing was accepted.")
        return
    print_acceptances(console, found)
