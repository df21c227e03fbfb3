"""Three kinds of plots as inline SVG, with labelled axes: bars over names, values over time, and steps of a whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from migration_assets.domain.evidence_pack import Reading
from migration_assets.evidence.markup import Markup, element, joined

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
    """A dashed line across the plot, and what it is."""

    value: float
    label: str


@dataclass(frozen=True)
class Bar:
    """One bar; `group` is written once for all that share it, where there are too many for names of their own."""

    name: str
    group: str
    value: float | None


@dataclass(frozen=True)
class Span:
    """One step: where it begins, and how long it lasts, in the unit of the axis."""

    name: str
    begin: float
    length: float


def bars(data: Sequence[Bar], *, title: str, y: str, x: str, limit: Limit | None = None) -> Markup:
    """Bars in their order; one without a value stays empty."""
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
    """Values over time, as dots or as a line that breaks where nothing could be measured."""
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
    """Steps one below the other, each at its place on a common axis, with its length beside it."""
    top = max(span.begin + span.length for span in data) or 1.0
    # Room to the right of the last bar for its length.
    wide, low = WIDTH - _NAMES - 90, _TOP + _ROW * len(data)
    drawn: list[Markup] = []
    step = _step(top)
    for part in range(math.floor(top / step * (1 + 1e-9)) + 1):
        place = _n(_NAMES + part * step / top * wide)
        drawn.append(element("line", class_="grid", x1=place, x2=place, y1=_TOP, y2=low))
        drawn.append(element("text", _figure(part * step, step), class_="tick", x=place, y=low + 16,
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
        lines.append(element("text", _figure(value, step), class_="tick", x=_LEFT - 6, y=height, text_anchor="end",
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
    """Every bar's where they are few; else every group's, where there is room for it."""
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
    """A round distance of about five lines up to the top."""
    rough = top / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _figure(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{digits + (step * 10**digits % 1 > 0.01)}f}"  # noqa: PLR2004 - 2.5 needs one digit more


def _n(value: float) -> str:
    return f"{value:.1f}"
