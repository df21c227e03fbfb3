"""Slices, states and rates as tables, once or live."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.slice_state import SliceState
from migration_assets.postgres.activity import Activity
from migration_assets.postgres.ledger import SliceRecord

_STYLES = {SliceState.ABSENT: "dim", SliceState.COPIED: "green"}


def status_tables(records: Sequence[SliceRecord], activity: Mapping[FiscalWeek, Activity]) -> RenderableType:
    """One table a quarter; slices at work show what the server says of them now."""
    if not records:
        return Text("The ledger knows no slice yet: materialize quarter_partitions first.")
    return Group(
        *(
            _quarter_table(quarter, list(group), activity)
            for quarter, group in groupby(records, lambda r: r.week.quarter)
        )
    )


def _quarter_table(
    quarter: FiscalQuarter, records: list[SliceRecord], activity: Mapping[FiscalWeek, Activity]
) -> Table:
    done = [record for record in records if record.state is not SliceState.ABSENT]
    sum_of_rows = sum(record.base.rows for record in done if record.base)
    table_bytes = sum(record.table_bytes or 0 for record in done)
    table = Table(
        title=f"{quarter.key}: {len(done)} of {len(records)} weeks, {sum_of_rows:,} rows, {gigabytes(table_bytes)}",
        title_justify="left",
    )
    for name in ("week", "state", "proof", "rows", "size", "MB/s", "GB/h", "copies"):
        table.add_column(name, justify="left" if name in {"week", "state", "proof"} else "right", no_wrap=True)
    lines = [(_cells(record), _now_or_last(record, activity.get(record.week))) for record in records]
    news = any(last.plain for _, last in lines)
    if news:
        table.add_column("now, or what went wrong", overflow="fold", min_width=24)
    for cells, last in lines:
        table.add_row(*cells, *([last] if news else []))
    return table


def _cells(record: SliceRecord) -> list[RenderableType]:
    rate = megabytes_per_second(record)
    return [
        record.week.name,
        Text(record.state.value, style=_STYLES.get(record.state, "")),
        _proof(record),
        f"{record.base.rows:,}" if record.base else "",
        gigabytes(record.table_bytes) if record.table_bytes is not None else "",
        f"{rate:,.1f}" if rate else "",
        f"{rate * 3.6:,.1f}" if rate else "",
        str(record.copies or ""),
    ]


def _proof(record: SliceRecord) -> Text:
    if record.legacy is None or record.base is None:
        return Text("")
    if record.verified_equal is False or record.legacy != record.base:
        return Text("DIFFERS", style="bold red")
    return Text("equal" if record.verified_at is None else "equal, re-read", "green")


def _now_or_last(record: SliceRecord, now: Activity | None) -> Text:
    if now is not None and record.working:
        size = f", {now.rows:,} rows" if now.rows else ""
        return Text(f"{now.phase}{size}, {now.seconds:.0f} s", style="cyan")
    if record.last_outcome in {None, "succeeded"}:
        return Text("")
    first_line = (record.last_error or "").splitlines()[0:1]
    return Text(f"{record.last_action} {record.last_outcome}: {''.join(first_line)[:60]}", style="red")


def megabytes_per_second(record: SliceRecord) -> float:
    """Table bytes (10^6) a second of the slice's last copy; 0.0 where there was none."""
    seconds = record.seconds.get("total", 0.0)
    return (record.table_bytes or 0) / 1e6 / seconds if seconds else 0.0


def gigabytes(size: int) -> str:
    """Bytes as people say them, decimal."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} B"
