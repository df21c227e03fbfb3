"""The dashboard and the status tables, rendered from real ledger rows."""

import io
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.console import Console, RenderableType

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.ledger.slices import slice_lock
from migration_assets.terminal.dashboard import Dashboard
from migration_assets.terminal.figures import duration, gigabytes, milliseconds, sparkline
from migration_assets.terminal.status import status_page
from migration_assets_tests.ground import Ground
from migration_assets_tests.terminal.conftest import look

DAY = timedelta(hours=24)


def page(ground: Ground) -> Dashboard:
    return Dashboard(DAY, lag_warning=30, lag_critical=300, overview=look(ground))


def drawn(what: RenderableType, width: int = 80, encoding: str = "utf-8") -> str:
    """As text without colours, on a terminal of this width."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width, no_color=True, color_system=None, legacy_windows=False).print(what)
    file.seek(0)
    return file.read()


def line(text: str, start: str) -> str:
    found = [line for line in text.splitlines() if line.startswith(start)]
    assert len(found) == 1, text
    return found[0]


def test_every_state_has_a_mark_that_is_read_without_colours(ground: Ground) -> None:
    text = drawn(page(ground))
    assert line(text, "FY25-Q2").split()[1:14] == ["★", "✓", "~", "✗", "○", "·", "!", *"······"]
    for word in ("absent", "copied", "validated", "signed off", "proof too old", "failed", "DIFFERS"):
        assert word in text


def test_a_terminal_without_unicode_has_letters_instead(ground: Ground) -> None:
    text = drawn(page(ground), encoding="ascii")
    assert line(text, "FY25-Q2").split()[1:14] == ["S", "v", "~", "X", "c", ".", "!", *"......"]
    text.encode("ascii")


@pytest.mark.parametrize("width", [80, 100, 132])
def test_nothing_is_wider_than_the_terminal(ground: Ground, width: int) -> None:
    overview = look(ground)
    for what in (page(ground), status_page(overview, DAY)):
        text = drawn(what, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in line(text, "✗ FY25-Q2|W04") if isinstance(what, Dashboard) else True


def test_what_is_wrong_is_said_with_what_to_do(ground: Ground) -> None:
    text = drawn(page(ground))
    assert "✗ FY25-Q2|W04 DIFFERED 3.0 h ago: 2 missing, 0 extra, 1 changed" in text
    assert "! FY25-Q2|W07 last copy failed: DiskFull: no [room] left" in text
    assert "its subscription is gone" in text
    assert text.index("CRITICAL slot lost for 4 min: the slot is lost") < text.index("WARNING lag for")
    assert "Next: look for [locks]." in text


def test_a_lag_that_nobody_measured_is_not_drawn(ground: Ground) -> None:
    text = drawn(Dashboard(DAY, 30, 300, replace(look(ground), lags=(), latest=None)))
    assert "No samples: the sensor change_stream_monitor does not run" in text
    assert "▁" not in text


def test_the_lag_is_a_bar_a_look_and_a_gap_where_it_was_not_known(ground: Ground) -> None:
    text = drawn(page(ground))
    assert line(text, "▁▁·") == "▁▁·▁█▂▂▂▂▂".ljust(len(line(text, "▁▁·")))
    assert "p50 7.0 s, max 45 s; 10 looks in 9 min; the last, 1 min ago: 10 s" in text.replace("\n", " ")


def test_a_slice_at_work_shows_how_far_it_is(ground: Ground) -> None:
    with ground.databases.session("base", "FY25-Q2|W06:copy") as base, slice_lock(base, ground.record(6)):
        base.execute("CREATE TEMP TABLE rows (n int)")
        with base.cursor().copy("COPY rows FROM STDIN") as copy:
            copy.write("1\n" * 14)
            text = drawn(page(ground))
    assert "»" in line(text, "FY25-Q2 ")
    assert "copy" in line(text, "FY25-Q2|W06")


def test_the_cost_of_the_cuts_is_their_percentiles_and_the_worst_try(ground: Ground) -> None:
    text = drawn(status_page(look(ground), DAY), 100)
    assert "Last 100 cuts: writers held p50 50.0 ms, p99 99.0 ms, max 100 ms, worst try 150 ms" in text


def test_the_status_tells_the_age_of_each_proof(ground: Ground) -> None:
    text = drawn(status_page(look(ground), DAY))
    assert "signed off" in line(text, "W01")
    assert "validated 3.0 h ago; since then" in line(text, "W02")
    assert "validated 30.0 h ago, too old" in line(text, "W03")
    assert "DIFFERED 3.0 h ago: 2 missing, 0 extra, 1 changed" in line(text, "W04")
    assert "equal when copied" in line(text, "W05")
    assert "last copy failed: DiskFull: no [room] left" in line(text, "W07")


def test_what_we_changed_after_a_validation_is_not_proven_any_more(ground: Ground) -> None:
    overview = look(ground)
    changed = [replace(r, changed_at=overview.now) if r.week.name == "W02" else r for r in overview.slices]
    text = drawn(status_page(replace(overview, slices=tuple(changed)), DAY))
    assert "~" in line(text, "W02")
    assert "changed by us since its validation" in line(text, "W02")


def test_a_low_terminal_shows_the_newest_quarters_and_sums_up_the_others(ground: Ground) -> None:
    overview = look(ground)
    years = [
        replace(record, week=FiscalWeek(FiscalQuarter(year, 1), record.week.number))
        for year in range(2010, 2026)
        for record in overview.slices
    ]
    many = Dashboard(DAY, 30, 300, replace(overview, slices=(*years, *overview.slices)))
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)
    lines = console.render_lines(many, console.options.update(height=24))
    text = "\n".join("".join(segment.text for segment in row) for row in lines)
    assert "FY25-Q2" in text
    assert "FY10-Q1 " not in text
    assert "earlier quarters: " in text


def test_figures_are_said_as_people_say_them() -> None:
    said = [duration(seconds) for seconds in (-1, 0.021, 3.21, 45.9, 720, 5400, 400_000)]
    assert said == ["0 ms", "21 ms", "3.2 s", "45 s", "12 min", "1.5 h", "4 d"]
    assert [milliseconds(value) for value in (5.71, 250, 1100)] == ["5.7 ms", "250 ms", "1.1 s"]
    assert [gigabytes(size) for size in (0, 999, 1500, 2_500_000, 10**12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "1,000.0 GB",
    ]  # fmt: skip


def test_a_calm_stream_is_drawn_calm_and_a_late_one_in_red() -> None:
    calm = sparkline([0.001, 0.002], warning=30, critical=300)
    assert calm.plain == "▁▁"
    late = sparkline([0.0, 31.0, 301.0], warning=30, critical=300)
    assert late.plain == "▁▁█"
    assert [str(span.style) for span in late.spans] == ["green", "yellow", "bold red"]
    assert sparkline([], warning=30, critical=300).plain == ""
