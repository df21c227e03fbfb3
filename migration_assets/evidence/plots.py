"""The four plots of a pack as inline SVG, each with a sentence that says what to look for.

They are drawn here and not by a plotting library: a pack must be one file of text that looks the same in ten years, and
a library's SVG embeds fonts, styles and a version of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from migration_assets.evidence.markup import Markup, count, element, joined, milliseconds
from migration_assets.evidence.pack import PackFacts, QuarterEvidence, Reading, WeekEvidence

WIDTH, HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 14, 16, 52
_INSIDE, _TALL = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_TICKS = 5
_NAMED_BARS = 13
_GAP = 0.2
_HEADROOM = 1.05
_NAMES, _ROW = 210, 26


@dataclass(frozen=True)
class Limit:
    """A dashed line across the plot, and its label."""

    value: float
    label: str


@dataclass(frozen=True)
class Bar:
    """One bar; where there are too many bars to name each, `group` is written once for all that share it."""

    name: str
    group: str
    value: float | None


@dataclass(frozen=True)
class Span:
    """One step: its beginning and its length, in the unit of the axis."""

    name: str
    begin: float
    length: float


def bars(data: Sequence[Bar], *, title: str, y: str, x: str, limit: Limit | None = None) -> Markup:
    """Draw bars in their order; a bar without a value stays empty."""
    top = _top([bar.value for bar in data], limit)
    step = _INSIDE / max(1, len(data))
    drawn: list[Markup] = []
    for number, bar in enumerate(data):
        if bar.value is None:
            continue
        height = bar.value / top * _TALL
        said = element("title", f"{bar.group} {bar.name}: {bar.value:,.3g}")
        drawn.append(
            element("rect", said, class_="bar", x=_n(_LEFT + step * (number + _GAP / 2)),
                    y=_n(_TOP + _TALL - height), width=_n(step * (1 - _GAP)), height=_n(max(height, 0.5)))
        )  # fmt: skip
    return _plot(title, y, x, top, joined(*drawn, _names(data, step)), limit)


def over_time(data: Sequence[Reading], *, title: str, y: str, x: str, dots: bool) -> Markup:
    """Draw values over time, as dots or as a line that breaks where nothing could be measured."""
    top = _top([reading.value for reading in data], None)
    first, last = data[0].at, data[-1].at
    seconds = max((last - first).total_seconds(), 1.0)

    def at(reading: Reading) -> tuple[str, str]:
        part = (reading.at - first).total_seconds() / seconds
        return _n(_LEFT + part * _INSIDE), _n(_TOP + _TALL - (reading.value or 0.0) / top * _TALL)

    drawn: list[Markup] = []
    line: list[str] = []
    for reading in [*data, None]:
        if reading is not None and reading.value is not None:
            cx, cy = at(reading)
            line.append(f"{cx},{cy}")
            if dots:
                drawn.append(element("circle", class_="dot", cx=cx, cy=cy, r=2.5))
        elif line:
            if not dots:
                drawn.append(_line(line))
            line = []
    times = [first + timedelta(seconds=seconds * part / 4) for part in range(5)]
    labels = [
        element("text", *_moment(moment, seconds), class_="tick", x=_n(_LEFT + _INSIDE * part / 4), y=HEIGHT - 34,
                text_anchor="middle" if 0 < part < 4 else "start" if part == 0 else "end")  # noqa: PLR2004
        for part, moment in enumerate(times)
    ]  # fmt: skip
    return _plot(title, y, x, top, joined(*drawn, *labels), None)


def spans(data: Sequence[Span], *, title: str, x: str) -> Markup:
    """Draw steps one below the other on a common axis, each with its length beside it."""
    top = max(span.begin + span.length for span in data) or 1.0
    # Space to the right of the last bar for its length.
    wide, low = WIDTH - _NAMES - 90, _TOP + _ROW * len(data)
    drawn: list[Markup] = []
    step = _step(top)
    for part in range(math.floor(top / step * (1 + 1e-9)) + 1):
        place = _n(_NAMES + part * step / top * wide)
        drawn.append(element("line", class_="grid", x1=place, x2=place, y1=_TOP, y2=low))
        drawn.append(element("text", _tick_figure(part * step, step), class_="tick", x=place, y=low + 16,
                             text_anchor="middle"))  # fmt: skip
    for row, span in enumerate(data):
        begin, length = _NAMES + span.begin / top * wide, max(span.length / top * wide, 1.0)
        middle = _n(_TOP + _ROW * (row + 0.5))
        drawn += [
            element("text", span.name, class_="label", x=_NAMES - 8, y=middle, text_anchor="end",
                    dominant_baseline="middle"),
            element("rect", class_="bar", x=_n(begin), y=_n(_TOP + _ROW * row + 5), width=_n(length), height=_ROW - 10),
            element("text", f"{span.length:,.1f}", class_="tick", x=_n(begin + length + 5), y=middle,
                    dominant_baseline="middle"),
        ]  # fmt: skip
    return element(
        "svg",
        element("title", title),
        *drawn,
        element("line", class_="axis", x1=_NAMES, x2=_NAMES, y1=_TOP, y2=low),
        element("text", x, class_="label", x=_n(_NAMES + wide / 2), y=low + 36, text_anchor="middle"),
        viewBox=f"0 0 {WIDTH} {low + 44}", role="img",
    )  # fmt: skip


def _line(points: list[str]) -> Markup:
    if len(points) == 1:
        cx, cy = points[0].split(",")
        return element("circle", class_="dot", cx=cx, cy=cy, r=2.5)
    return element("polyline", class_="line", points=" ".join(points))


def _plot(title: str, y: str, x: str, top: float, inside: Markup, limit: Limit | None) -> Markup:
    lines: list[Markup] = []
    step = _step(top)
    for number in range(math.floor(top / step * (1 + 1e-9)) + 1):
        value = number * step
        height = _n(_TOP + _TALL - value / top * _TALL)
        lines.append(element("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=height, y2=height))
        lines.append(element("text", _tick_figure(value, step), class_="tick", x=_LEFT - 6, y=height, text_anchor="end",
                             dominant_baseline="middle"))  # fmt: skip
    if limit is not None:
        height = _TOP + _TALL - limit.value / top * _TALL
        lines.append(element("line", class_="limit", x1=_LEFT, x2=WIDTH - _RIGHT, y1=_n(height), y2=_n(height)))
        lines.append(element("text", limit.label, class_="tick", x=WIDTH - _RIGHT, y=_n(height - 4), text_anchor="end"))
    middle = _TOP + _TALL / 2
    return element(
        "svg",
        element("title", title),
        *lines,
        inside,
        element("line", class_="axis", x1=_LEFT, x2=_LEFT, y1=_TOP, y2=_TOP + _TALL),
        element("line", class_="axis", x1=_LEFT, x2=WIDTH - _RIGHT, y1=_TOP + _TALL, y2=_TOP + _TALL),
        element("text", y, class_="label", x=16, y=_n(middle), text_anchor="middle",
                transform=f"rotate(-90 16 {_n(middle)})"),
        element("text", x, class_="label", x=_n(_LEFT + _INSIDE / 2), y=HEIGHT - 4, text_anchor="middle"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
    )  # fmt: skip


def _names(data: Sequence[Bar], step: float) -> Markup:
    """Name every bar where there are few; else every group, where there is space for it."""
    height = HEIGHT - 34
    if len(data) <= _NAMED_BARS:
        return joined(*(
            element("text", bar.name, class_="tick", x=_n(_LEFT + step * (n + 0.5)), y=height, text_anchor="middle")
            for n, bar in enumerate(data)
        ))  # fmt: skip
    written: list[Markup] = []
    last = -math.inf
    for number, bar in enumerate(data):
        place = _LEFT + step * number
        if (number == 0 or data[number - 1].group != bar.group) and place - last > len(bar.group) * 8:
            written.append(element("text", bar.group, class_="tick", x=_n(place), y=height))
            written.append(element("line", class_="axis", x1=_n(place), x2=_n(place), y1=_TOP + _TALL, y2=height - 10))
            last = place
    return joined(*written)


def _moment(moment: datetime, seconds: float) -> tuple[Markup | str, ...]:
    here = moment.astimezone(UTC)
    if seconds < timedelta(days=2).total_seconds():
        return (f"{here:%m-%d %H:%M:%S}" if seconds < timedelta(hours=1).total_seconds() else f"{here:%m-%d %H:%M}",)
    return (f"{here:%Y-%m-%d}",)


def _top(values: Sequence[float | None], limit: Limit | None) -> float:
    highest = max([value for value in values if value is not None] + ([limit.value] if limit else []), default=0.0)
    return highest * _HEADROOM or 1.0


def _step(top: float) -> float:
    """Return a round distance between grid lines that gives about five of them."""
    rough = top / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _tick_figure(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{digits + (step * 10**digits % 1 > 0.01)}f}"  # noqa: PLR2004 - 2.5 needs one digit more


def _n(value: float) -> str:
    return f"{value:.1f}"


_HOUR = 3600.0


def plots(facts: PackFacts) -> Markup:
    """Draw all four plots."""
    return joined(_throughput(facts), _lag(facts), _holds(facts), _ages(facts))


def _throughput(facts: PackFacts) -> Markup:
    data = [Bar(week.week.name, week.week.quarter.key, week.megabytes_per_second) for week in facts.weeks]
    known = sorted(bar.value for bar in data if bar.value is not None)
    if not known:
        return _empty(
            "How fast each week was copied", "No week was copied by a bulk copy; small weeks came as single rows."
        )
    said = (
        f"Megabytes of table a second (1 MB = 1,000,000 bytes), comparison included; the middle one is"
        f" {known[len(known) // 2]:,.1f} MB/s. Weeks without a bar came as single rows, without a bulk copy."
    )
    return _figure(
        "How fast each week was copied", said, bars(data, title="Throughput per week", y="MB a second", x="fiscal week")
    )


def _lag(facts: PackFacts) -> Markup:
    title = "How far the new database was behind the old one"
    known = [reading.value for reading in facts.lags if reading.value is not None]
    if not known:
        return _empty(
            title, "There are no measurements: the change stream was not watched, or they were too old to be kept."
        )
    said = (
        f"Seconds between a change in the old database and the same change in the new one; the longest is"
        f" {max(known):,.2f} s. Each point is the worst of its stretch of time; a gap is a time without a measurement."
    )
    return _figure(
        title, said, over_time(facts.lags, title="Lag over time", y="seconds behind", x="time (UTC)", dots=False)
    )


def _holds(facts: PackFacts) -> Markup:
    title = "How long users of the old database had to wait for a comparison"
    if facts.costs is None or not facts.holds:
        return _empty(title, "No comparison at a common moment was made yet.")
    costs = facts.costs
    said = (
        f"To compare both databases at exactly the same point, writing to the old table is held for a moment. Over"
        f" {count(costs.cuts, 'such moment')}: half of them lasted at most {milliseconds(costs.median)}, 99 of 100 at"
        f" most {milliseconds(costs.p99)}, the longest {milliseconds(costs.longest)}. Reading was never held."
    )
    return _figure(
        title, said, over_time(facts.holds, title="Writers held", y="milliseconds", x="time (UTC)", dots=True)
    )


def _ages(facts: PackFacts) -> Markup:
    title = "How old each week's comparison was when it was relied upon"
    data = [
        Bar(week.week.name, quarter.quarter.key, _age(facts, quarter, week))
        for quarter in facts.quarters
        for week in quarter.weeks
    ]
    if all(bar.value is None for bar in data):
        return _empty(title, "No week was compared exactly yet.")
    limits = {q.signature.max_age for q in facts.quarters if q.signature and q.signature.max_age}
    highest = max(bar.value for bar in data if bar.value is not None)
    limit, more = None, ""
    if len(limits) == 1:
        hours = limits.pop().total_seconds() / _HOUR
        more = f" A signature is refused where one is older than {hours:,.0f} hours."
        if highest > hours / 10:
            limit = Limit(hours, f"oldest that may be signed: {hours:,.0f} hours")
    unit, factor = (
        ("hours", 1.0) if highest >= 1 or limit else ("minutes", 60.0) if highest * 60 >= 1 else ("seconds", _HOUR)
    )
    scaled = [Bar(bar.name, bar.group, None if bar.value is None else bar.value * factor) for bar in data]
    said = (
        f"{unit.capitalize()} between the exact comparison of a week and the signature that rests on it; for weeks"
        f" that nobody signed, until this page was written.{more}"
    )
    return _figure(title, said, bars(scaled, title="Age of comparisons", y=unit, x="fiscal week", limit=limit))


def _age(facts: PackFacts, quarter: QuarterEvidence, week: WeekEvidence) -> float | None:
    if week.compared_at is None:
        return None
    stands = quarter.signature is not None and not quarter.void
    until = quarter.signature.signed_at if stands and quarter.signature else facts.written_at
    return abs((until - week.compared_at).total_seconds()) / _HOUR


def _figure(title: str, said: str, svg: Markup) -> Markup:
    return element("figure", element("h3", title), svg, element("figcaption", said))


def _empty(title: str, why: str) -> Markup:
    return element("figure", element("h3", title), element("p", why, class_="empty"))
