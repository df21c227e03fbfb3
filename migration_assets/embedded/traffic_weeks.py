"""The fiscal weeks that live traffic moves bookings between, in the demo's calendar: quarters of 13 weeks, in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

_LAST_WEEK: Final = 12


@dataclass(frozen=True)
class Week:
    """A fiscal week, cut to the traffic's range: UTC, [lower, upper)."""

    quarter: date
    number: int
    lower: datetime
    upper: datetime


def fiscal_week(moment: datetime) -> tuple[date, int]:
    """The first day of the quarter and the week's number, 0 to 12, of a UTC time, in the demo's calendar."""
    quarter = date(moment.year, moment.month - (moment.month - 1) % 3, 1)
    return quarter, min((moment.date() - quarter).days // 7, _LAST_WEEK)


def weeks_between(first: datetime, as_of: datetime) -> list[Week]:
    """The fiscal weeks of [first, as_of), cut to it."""
    found: list[Week] = []
    lower = first
    while lower < as_of:
        quarter, number = fiscal_week(lower)
        upper = lower.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        while upper < as_of and fiscal_week(upper) == (quarter, number):
            upper += timedelta(days=1)
        found.append(Week(quarter, number, lower, min(upper, as_of)))
        lower = upper
    return found
