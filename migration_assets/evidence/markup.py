"""HTML and SVG as a tree of text that escapes whatever is not markup already, and figures as an auditor reads them.

Every figure has its unit and every time is in UTC. No template engine is used: a pack is a program's output of a dozen
tables, and a value must not be able to become markup by a forgotten filter.
"""

from datetime import UTC, datetime, timedelta
from html import escape


class Markup(str):
    """Text that is HTML; only `element` and `joined` make it from values."""

    __slots__ = ()


Child = str | Markup | None
_VOID = frozenset({"br", "meta", "hr"})


def element(name: str, /, *children: Child, **attributes: object) -> Markup:
    """Return an element as text; None is left out, `class_` means `class`, `stroke_width` means `stroke-width`."""
    written = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for attribute, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Return the children one after the other; those that are not markup are escaped."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children if child is not None)
    )


def named(approved_by: str, done_by: str) -> Markup:
    """Return the name that a person typed, and below it what is known of the account that did it."""
    return joined(approved_by, element("p", f"by {done_by}", class_="hint place") if done_by else None)


def page(title: str, style: str, head: Markup, *body: Markup) -> str:
    """Return a whole document; the style is inserted unescaped, and must contain no value."""
    start = element(
        "head", Markup('<meta charset="utf-8">'), head, element("title", title), Markup(f"<style>{style}</style>")
    )
    return f'<!DOCTYPE html>\n<html lang="en">{start}{element("body", *body)}</html>\n'


_KILO, _MEGA, _GIGA, _TERA = 1e3, 1e6, 1e9, 1e12
_SECOND, _MINUTE, _HOUR, _DAY = 1.0, 60.0, 3600.0, 86_400.0
NOTHING = "-"


def instant(moment: datetime | None) -> str:
    """Return a time: `2024-06-24 12:00:31 UTC`."""
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 row`, `1,204 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """Return bytes in decimal units: `1.2 MB`."""
    for unit, factor in (("TB", _TERA), ("GB", _GIGA), ("MB", _MEGA), ("kB", _KILO)):
        if number >= factor:
            return f"{number / factor:,.1f} {unit}"
    return f"{number} bytes"


def span(length: timedelta) -> str:
    """Return a duration: `12 seconds`, `3.5 hours`, `4 days`."""
    seconds = abs(length.total_seconds())
    if seconds < _MINUTE:
        return f"{seconds:.0f} seconds" if round(seconds) != 1 else "1 second"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} minutes"
    number, unit = (seconds / _HOUR, "hours") if seconds < 2 * _DAY else (seconds / _DAY, "days")
    return f"{f'{number:.1f}'.removesuffix('.0')} {unit}"


def milliseconds(value: float) -> str:
    """Return milliseconds: `5.7 ms`, `1,204 ms`."""
    return f"{value:,.1f} ms" if value < 100 else f"{value:,.0f} ms"  # noqa: PLR2004


def state(name: str) -> str:
    """Return a state in words: `signed off`."""
    return name.replace("_", " ")


def listed(names: list[str]) -> str:
    """Return a list in words: `a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
