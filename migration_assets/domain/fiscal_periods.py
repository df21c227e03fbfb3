"""Fiscal quarters and weeks as labels: keys, order, successors. Which days they cover is the calendar's business."""

import re
from dataclasses import dataclass
from typing import Self

from migration_assets.domain.errors import CalendarError

QUARTERS_PER_YEAR = 4
WEEKS_PER_QUARTER = 13
WEEK_NAMES = tuple(f"W{number:02d}" for number in range(1, WEEKS_PER_QUARTER + 1))
"""("W01", ..., "W13"): the names are the same in every quarter, so they can be static partition keys."""

FIRST_LABEL_YEAR, LAST_LABEL_YEAR = 1, 9999
# A label of two digits means the one year of this century-long span that ends with them. Years outside are written
# with four digits and years inside never are, so every quarter has exactly one key.
FIRST_SHORT_YEAR, LAST_SHORT_YEAR = 1970, 2069

_QUARTER_KEY = re.compile(r"FY([0-9]{4}|[0-9]{2})-Q([1-4])")


def require_int(value: object, lowest: int, highest: int, name: str) -> None:
    """Raise CalendarError unless `value` is a whole number (no bool, no float) in lowest..highest."""
    if type(value) is not int or not lowest <= value <= highest:
        raise CalendarError(f"{name} must be a whole number in {lowest}..{highest}, not {value!r}")


@dataclass(frozen=True, order=True, slots=True)
class FiscalQuarter:
    """One fiscal quarter by its label, in chronological order; CalendarError when it cannot exist.

    Attributes:
        fiscal_year: The year in the label (2025 for FY25), 1..9999: not always a year the quarter lies in.
        number: 1..4.
    """

    fiscal_year: int
    number: int

    def __post_init__(self) -> None:
        require_int(self.fiscal_year, FIRST_LABEL_YEAR, LAST_LABEL_YEAR, "The fiscal year of a quarter")
        require_int(self.number, 1, QUARTERS_PER_YEAR, "The number of a fiscal quarter")

    def __str__(self) -> str:
        return self.key

    @property
    def key(self) -> str:
        """`FY25-Q2`; label years outside 1970..2069 have four digits: `FY2125-Q1`."""
        short = FIRST_SHORT_YEAR <= self.fiscal_year <= LAST_SHORT_YEAR
        year = f"{self.fiscal_year % 100:02d}" if short else f"{self.fiscal_year:04d}"
        return f"FY{year}-Q{self.number}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The quarter that has exactly this key; CalendarError for any other spelling."""
        match = _QUARTER_KEY.fullmatch(key)
        if match is None:
            raise CalendarError(
                f"{key!r} is not a fiscal quarter",
                next_step="Write it like FY25-Q2: FY, two digits (four outside 1970..2069), -Q and 1 to 4.",
            )
        digits, number = match.groups()
        year = int(digits)
        if len(digits) == len("25"):
            century = FIRST_SHORT_YEAR // 100 * 100
            year += century if century + year >= FIRST_SHORT_YEAR else century + 100
        quarter = cls(year, int(number))
        if quarter.key != key:
            raise CalendarError(
                f"{key!r} is not how this fiscal quarter is written",
                next_step=f"Write {quarter.key}: a quarter has one key, with two digits in 1970..2069.",
            )
        return quarter

    @property
    def ordinal(self) -> int:
        """Quarters since the label year 0: consecutive quarters have consecutive ordinals."""
        return self.fiscal_year * QUARTERS_PER_YEAR + self.number - 1

    @classmethod
    def from_ordinal(cls, ordinal: int) -> Self:
        """The inverse of `ordinal`; CalendarError outside the label years 1..9999."""
        return cls(ordinal // QUARTERS_PER_YEAR, ordinal % QUARTERS_PER_YEAR + 1)

    @property
    def previous(self) -> Self:
        """The quarter before; CalendarError before FY0001-Q1."""
        return self.from_ordinal(self.ordinal - 1)

    @property
    def next(self) -> Self:
        """The quarter after; CalendarError after FY9999-Q4."""
        return self.from_ordinal(self.ordinal + 1)


@dataclass(frozen=True, order=True, slots=True)
class FiscalWeek:
    """One slice's label, in chronological order; CalendarError when it cannot exist.

    Attributes:
        quarter: The fiscal quarter the week belongs to; a week never spans two.
        number: 1..13.
    """

    quarter: FiscalQuarter
    number: int

    def __post_init__(self) -> None:
        _require_quarter(self.quarter)
        require_int(self.number, 1, WEEKS_PER_QUARTER, "The number of a fiscal week")

    def __str__(self) -> str:
        return self.key

    @property
    def name(self) -> str:
        """`W05`: the week's key within its quarter."""
        return WEEK_NAMES[self.number - 1]

    @property
    def key(self) -> str:
        """`FY25-Q2|W05`: the same text as Dagster's key of the partition (quarter, week)."""
        return f"{self.quarter.key}|{self.name}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The week that has exactly this key; CalendarError for any other spelling."""
        quarter_key, separator, name = key.partition("|")
        if not separator or name not in WEEK_NAMES:
            raise CalendarError(
                f"{key!r} is not a fiscal week",
                next_step="Write it like FY25-Q2|W05: the quarter, a bar, and W01 to W13.",
            )
        return cls(FiscalQuarter.parse(quarter_key), WEEK_NAMES.index(name) + 1)

    @property
    def previous(self) -> Self:
        """The week before, W13 of the previous quarter before W01; CalendarError before FY0001-Q1|W01."""
        if self.number == 1:
            return type(self)(self.quarter.previous, WEEKS_PER_QUARTER)
        return type(self)(self.quarter, self.number - 1)

    @property
    def next(self) -> Self:
        """The week after, W01 of the next quarter after W13; CalendarError after FY9999-Q4|W13."""
        if self.number == WEEKS_PER_QUARTER:
            return type(self)(self.quarter.next, 1)
        return type(self)(self.quarter, self.number + 1)


def _require_quarter(value: object) -> None:
    if not isinstance(value, FiscalQuarter):
        raise CalendarError(f"The quarter of a fiscal week must be a FiscalQuarter, not {value!r}")
