"""Figures as people read them: bytes, durations, rates, and a row of bars."""

from collections.abc import Iterable

from rich.text import Text

from migration_assets.ledger.slices import SliceRecord

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-=+*#%"
_LOWEST_TOP = 0.1
_SECOND, _MINUTE, _HOUR, _DAY = 1.0, 60.0, 3600.0, 86_400.0


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


def duration(seconds: float) -> str:
    """A length of time in one unit: `21 ms`, `3.2 s`, `45 s`, `12 min`, `3.5 h`, `4 d`."""
    seconds = max(0.0, seconds)
    if seconds < _SECOND:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 * _SECOND else f"{int(seconds)} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{int(seconds // _DAY)} d"


def milliseconds(value: float) -> str:
    """`5.7 ms` below 100, then whole ones, then seconds."""
    return f"{value:.1f} ms" if value < 100 else duration(value / 1000)  # noqa: PLR2004


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 change`, `1,204 changes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sparkline(values: Iterable[float | None], *, warning: float, critical: float, plain: bool = False) -> Text:
    """One bar a value, from nought to the greatest; a blank where nothing was known, coloured by the thresholds."""
    drawn = list(values)
    # A calm stream is flat: a few milliseconds are not blown up to the height of an outage.
    highest = max([value for value in drawn if value is not None], default=0.0)
    top = max(highest, min(_LOWEST_TOP, warning))
    bars = _PLAIN_BARS if plain else _BARS
    line = Text()
    for value in drawn:
        if value is None:
            line.append("?" if plain else "·", "dim")
            continue
        style = "bold red" if value > critical else "yellow" if value > warning else "green"
        line.append(bars[min(len(bars) - 1, int(value / top * len(bars)))], style)
    return line
