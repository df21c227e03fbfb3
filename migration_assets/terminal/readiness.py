"""Readiness as paragraphs: its remedies are statements to be copied, which a table's columns would break."""

from rich.console import Console
from rich.text import Text

from migration_assets.domain.findings import Finding, Severity, worst_first

_STYLES = {Severity.BLOCKING: "bold red", Severity.WARNING: "yellow", Severity.INFO: "green"}


def print_readiness(console: Console, findings: list[Finding], *, everything: bool) -> None:
    """What blocks and warns, and with `everything` also what is well; then the count."""
    for finding in worst_first(findings):
        if finding.severity is Severity.INFO and not everything:
            continue
        head = Text(finding.severity.value.upper(), style=_STYLES[finding.severity])
        head.append(f"  {finding.area.value}: {finding.code}", style="bold")
        console.print(head)
        console.print(Text(f"  {finding.evidence}"), soft_wrap=not console.is_terminal)
        if finding.remedy:
            # Never folded: whoever copies it copies whole statements.
            console.print(Text(f"  Remedy: {finding.remedy}"), soft_wrap=True)
    counts = ", ".join(f"{sum(f.severity is s for f in findings)} {s.value}" for s in Severity)
    console.print(f"Readiness examined {len(findings)} things: {counts}.", highlight=False)
