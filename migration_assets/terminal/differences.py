"""Rows that differ, as a table: keys and names of columns, never a value."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from migration_assets.domain.differences import Differences, Kind
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.sign_off import Missing
from migration_assets.ledger.cuts import CutRecord
from migration_assets.postgres.sessions import Side
from migration_assets.proof.reconciliation import Reconciled
from migration_assets.terminal.figures import count, milliseconds

_STYLES = {Kind.MISSING: "red", Kind.EXTRA: "magenta", Kind.CHANGED: "yellow"}


def differences_table(where: str, differences: Differences, *, side: Side = "base") -> RenderableType:
    """Counts by kind, then the sample with the columns that differ; `side` is the one that lacks or has too much."""
    title = Text(where, "bold").append(f": {differences}", "not bold")
    if not differences.sample:
        return title
    # A key that holds the control column has it in every row.
    names = list(differences.sample[0].key)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", border_style="dim")
    table.add_column(f"in the {side}", no_wrap=True)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    table.add_column("columns that differ", overflow="fold")
    for one in differences.sample:
        table.add_row(
            Text(one.kind.value, _STYLES[one.kind]),
            *(Text(one.key.get(name, "")) for name in names),
            Text(", ".join(one.columns)),
        )
    more = differences.rows - len(differences.sample)
    rest = f"… and {count(more, 'row')} more." if more > 0 else ""
    return Group(title, table, Text(rest, "dim"))


def week_line(week: FiscalWeek, legacy: Fingerprint, base: Fingerprint, cut: CutRecord, *, found: str = "") -> Text:
    """One week at a cut, in one line."""
    equal = legacy == base and not found
    line = Text(f"{week.key} ", "bold").append(
        "equal" if equal else "DIFFERS", "not bold green" if equal else "bold red"
    )
    rows = count(base.rows, "row") if legacy.rows == base.rows else f"{legacy.rows:,} and {base.rows:,} rows"
    return line.append(f"  {rows}{f', {found}' if found else ''}{cut_text(cut)}", "not bold default")


def cut_text(cut: CutRecord) -> str:
    """`  marker 12, writers held 5.7 ms`."""
    tries = f" in {count(cut.tries, 'try', 'tries')}" if cut.tries > 1 else ""
    return f"  (marker {cut.marker}, writers held {milliseconds(cut.writers_held_ms)}{tries})"


def reconciled_page(done: Reconciled) -> RenderableType:
    """13 comparisons at one cut, and keys that are there twice."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", border_style="dim")
    table.add_column("week", no_wrap=True)
    for side in ("legacy", "base"):
        table.add_column(side, justify="right", no_wrap=True)
    table.add_column("result", overflow="fold")
    for week, proof in done.weeks:
        result = Text("equal", "green") if proof.equal else Text(f"DIFFERS: {proof.differences}", "bold red")
        table.add_row(week.name, f"{proof.legacy.rows:,}", f"{proof.base.rows:,}", result)
    table.add_section()
    verdict = Text("equal", "bold green") if done.equal else Text("NOT equal", "bold red")
    table.add_row("all", f"{done.legacy.rows:,}", f"{done.base.rows:,}", verdict)
    title = Text(done.quarter.key, "bold").append(f" at one cut{cut_text(done.cut)}", "not bold")
    parts: list[RenderableType] = [title, table, Text()]
    parts.extend(differences_table(week.key, proof.differences) for week, proof in done.weeks if proof.differences.rows)
    parts.extend(Text(f"Key {twin.key} is there {len(twin.control_values)} times", "red") for twin in done.duplicates)
    return Group(*parts)


def missing_list(quarter: str, lacking: Sequence[Missing]) -> RenderableType:
    """What a sign-off lacks, in the order of the work; one next step for all lines that share it."""
    title = f"{quarter} cannot be signed off: {count(len(lacking), 'thing is', 'things are')} missing"
    parts: list[RenderableType] = [Text(title, "bold red")]
    for next_step, group in groupby(lacking, lambda one: one.next_step):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for one in group:
            table.add_row(Text(one.where.removeprefix(f"{quarter}|"), "bold"), Text(one.what))
        parts += [table, Text(f"Next: {next_step}\n", "dim")]
    return Group(*parts)
