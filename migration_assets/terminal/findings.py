"""Preflight's findings, and those that were accepted, as tables."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from migration_assets.domain.findings import Acceptance, Finding, Severity, worst_first

_STYLES = {Severity.BLOCKING: "bold red", Severity.WARNING: "yellow", Severity.INFO: "green"}


def print_findings(console: Console, findings: list[Finding], *, everything: bool) -> None:
    """Print what blocks and warns, and with `everything` also what is well."""
    shown = [f for f in worst_first(findings) if everything or f.severity is not Severity.INFO]
    if shown:
        table = Table(title="Preflight", title_justify="left", show_lines=True)
        table.add_column("severity", no_wrap=True)
        table.add_column("what", no_wrap=True)
        table.add_column("evidence", ratio=3)
        table.add_column("remedy", ratio=2)
        for finding in shown:
            # As Text: evidence may hold brackets, which rich would take for markup.
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
    """Print who answers for which finding, and why."""
    table = Table(title="Accepted findings", title_justify="left")
    for column in ("finding", "about", "by", "at", "reason"):
        table.add_column(column, overflow="fold")
    for one in acceptances:
        at = f"{one.accepted_at:%Y-%m-%d %H:%M %Z}"
        table.add_row(*(Text(text) for text in (one.code, one.subject, one.accepted_by, at, one.reason)))
    console.print(table)
