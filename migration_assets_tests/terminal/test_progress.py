"""Progress over many weeks: where no terminal is, as in a file or in CI, each week has one line."""

import io

from rich.console import Console

from migration_assets.demo.copying import WeekLines
from migration_assets.terminal.figures import WeekByWeek
from migration_assets_tests.ground import QUARTER, week
from migration_assets_tests.terminal.live_quarter import LiveQuarter


def test_without_a_terminal_each_finished_week_is_one_line() -> None:
    written = io.StringIO()
    with WeekByWeek(Console(file=written, width=80), "validated", 2) as progress:
        for number in (1, 2):
            progress.at(week(number))
            progress.done(f"{week(number).key} equal")
    assert written.getvalue().splitlines() == ["FY25-Q2|W01 equal", "FY25-Q2|W02 equal"]


def test_without_a_terminal_each_copied_week_of_the_demo_is_one_line(quarter: LiveQuarter) -> None:
    written = io.StringIO()
    weeks = quarter.migration.calendar.weeks_of(QUARTER)
    with WeekLines(Console(file=written, width=160), quarter.migration, weeks) as lines:
        lines.refresh()
        for one in weeks:
            lines.finish(one, "disk full\nmore" if one.number == 7 else "")
    shown = written.getvalue().splitlines()
    assert [line.split(":")[0] for line in shown] == [one.key for one in weeks]
    assert shown[6] == "FY25-Q2|W07: FAILED: disk full"
    assert shown[0].startswith("FY25-Q2|W01: equal, ")
