"""Weeks coming under CDC: progress while they do, and what was found when they have."""

import itertools
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from migration_assets.stream.joining import Joined
from migration_assets.stream.true_up import TruedUp
from migration_assets.stream.true_up_weeks import OnWeek
from migration_assets.terminal.figures import count, duration, milliseconds


@contextmanager
def weeks_progress(console: Console, title: str) -> Generator[OnWeek]:
    """A line for every week that is true, as it becomes so."""
    finished = itertools.count(1)  # several threads call
    with console.status(title) as status:

        def on_week(week: TruedUp) -> None:
            found = week.differences
            mended = Text(f"mended: {found}", "yellow") if found.rows else Text("equal", "green")
            rows = count(week.base.rows, "row")
            console.print(Text(f"{week.week.key} ", "bold").append_text(mended).append(f"  {rows}", "not bold default"))
            status.update(f"{title} ({next(finished)} so far)")

        yield on_week


def print_joined(console: Console, joined: Joined) -> None:
    """What it took, in two lines."""
    quarter = joined.quarter.key if joined.quarter else "the stream"
    marker = f" (marker {joined.marker})" if joined.marker else ""
    stood = f"; the stream stood for {milliseconds(joined.paused_ms)}" if joined.paused_ms else ""
    console.print(
        f"{quarter} {joined.how}: exact since {joined.lsn}{marker}; {count(len(joined.weeks), 'week')} trued up in"
        f" {duration(joined.seconds)}{stood}.",
        style="green",
        highlight=False,
        markup=False,
    )
