"""The commands `readiness` and `accept`, and how findings are shown.

Remedies are statements to be copied, which a table's columns would break: readiness is shown as paragraphs.
"""

import sys

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from migration_assets.domain.findings import Acceptance, Finding, Severity, worst_first
from migration_assets.domain.states import CutoverKind
from migration_assets.readiness.readiness import accept_finding, accepted, examine_cutover, withdraw
from migration_assets.readiness.step import give_code_for
from migration_assets.terminal.arguments import opened
from migration_assets.terminal.output import console, say

_STYLES = {Severity.BLOCKING: "bold red", Severity.WARNING: "yellow", Severity.INFO: "green"}


def print_readiness(console: Console, findings: list[Finding], *, everything: bool) -> None:
    """Print what blocks and warns, and with `everything` also what is in order; then the count."""
    for finding in worst_first(findings):
        if finding.severity is Severity.INFO and not everything:
            continue
        head = Text(finding.severity.value.upper(), style=_STYLES[finding.severity])
        head.append(f"  {finding.area.value}: {finding.code}", style="bold")
        console.print(head)
        console.print(Text(f"  {finding.evidence}"), soft_wrap=not console.is_terminal)
        if finding.remedy:
            # Never folded, so that whole statements can be copied.
            console.print(Text(f"  Remedy: {finding.remedy}"), soft_wrap=True)
    counts = ", ".join(f"{sum(f.severity is s for f in findings)} {s.value}" for s in Severity)
    console.print(f"Readiness examined {len(findings)} things: {counts}.", highlight=False)


def print_findings(console: Console, findings: list[Finding], *, everything: bool) -> None:
    """Print what blocks and warns, and with `everything` also what is in order."""
    shown = [f for f in worst_first(findings) if everything or f.severity is not Severity.INFO]
    if shown:
        table = Table(title="Preflight", title_justify="left", show_lines=True)
        table.add_column("severity", no_wrap=True)
        table.add_column("what", no_wrap=True)
        table.add_column("evidence", ratio=3)
        table.add_column("remedy", ratio=2)
        for finding in shown:
            # As Text, since rich would take brackets in the evidence for markup.
            table.add_row(
                Text(finding.severity.value, style=_STYLES[finding.severity]),
                Text(f"{finding.area.value}\n{finding.code}"),
                Text(finding.evidence),
                Text(finding.remedy),
            )
        console.print(table)
    counts = ", ".join(f"{sum(f.severity is s for f in findings)} {s.value}" for s in Severity)
    console.print(f"Preflight examined {len(findings)} things: {counts}.", highlight=False)


def print_acceptances(console: Console, acceptances: list[Acceptance]) -> None:
    """Print the accepted findings: who accepted each, and why."""
    table = Table(title="Accepted findings", title_justify="left")
    for column in ("finding", "about", "by", "at", "reason"):
        table.add_column(column, overflow="fold")
    for one in acceptances:
        at = f"{one.accepted_at:%Y-%m-%d %H:%M %Z}"
        table.add_row(*(Text(text) for text in (one.code, one.subject, one.accepted_by, at, one.reason)))
    console.print(table)


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also show what is in order.")
def readiness(everything: bool) -> None:
    """Examine whether everything is ready for the cutover; exit code 1 if something blocks. Changes nothing."""
    migration = opened()
    with console.status("Looking at both sides"):
        examined = examine_cutover(migration)
    print_readiness(console, list(examined.findings), everything=everything)
    if not examined.ready:
        sys.exit(1)
    say("Nothing stands in the way of the cutover.", "green")
    say(f"The cutover asks for a code: --confirm {give_code_for(migration, CutoverKind.CUTOVER)}.")


@click.command()
@click.argument("code", required=False)
@click.argument("subject", required=False)
@click.option("--by", help="The person who accepts the finding.")
@click.option("--reason", help="Why the finding is acceptable.")
@click.option("--withdraw", "taken_back", is_flag=True, help="Withdraw the acceptance: the finding blocks again.")
def accept(code: str | None, subject: str | None, by: str | None, reason: str | None, taken_back: bool) -> None:
    """Go on in spite of one finding about one thing; without arguments, list what was accepted.

    CODE and SUBJECT are in the remedy that `preflight` or `readiness` prints.
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
        raise click.UsageError("--by and --reason are needed: a person must answer for it")
    accept_finding(migration, code, subject, by=by, reason=reason)
    say(f"{code} about {subject} is accepted by {by}; preflight and readiness show it as a warning from now on.")


def _list() -> None:
    found = accepted(opened())
    if not found:
        say("Nothing was accepted.")
        return
    print_acceptances(console, found)
