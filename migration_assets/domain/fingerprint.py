"""Fingerprints of sets of rows (a count and two order-independent checksums), and lists of differing rows. Pure.

Which rows differ is kept here, too, and what the portable fingerprint is: the one that PostgreSQL and DuckDB compute
alike, to the byte.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Self

METHOD = "image-v2"
"""Name of the checksum method in `postgres/fingerprints.py`; only checksums of the same method can be compared."""


@dataclass(frozen=True)
class Fingerprint:
    """Row count and two sums over signed 64-bit row hashes (exact integers, not reduced modulo 2**64).

    Fingerprints add: those of the weeks of a quarter add up to the quarter's.
    """

    rows: int
    sum_a: int
    sum_b: int

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ValueError(f"a fingerprint cannot have {self.rows} rows")
        if self.rows == 0 and (self.sum_a or self.sum_b):
            raise ValueError("a fingerprint of no rows cannot have a checksum")

    @classmethod
    def from_row(cls, rows: int, sum_a: Decimal | int | None, sum_b: Decimal | int | None) -> Self:
        """Build from the result of `count(*), sum(), sum()`; sums over no rows are NULL."""
        return cls(rows, int(sum_a or 0), int(sum_b or 0))

    def __add__(self, other: "Fingerprint") -> "Fingerprint":
        return Fingerprint(self.rows + other.rows, self.sum_a + other.sum_a, self.sum_b + other.sum_b)

    @property
    def checksum(self) -> str:
        """Both sums as one text for people: 32 hexadecimal digits."""
        mask = 2**64 - 1
        return f"{self.sum_a & mask:016x}{self.sum_b & mask:016x}"

    def same_checksums(self, other: "Fingerprint") -> bool:
        """Whether both sums agree; row counts are not compared."""
        return (self.sum_a, self.sum_b) == (other.sum_a, other.sum_b)

    def __str__(self) -> str:
        return f"{self.rows:,} rows, checksum {self.checksum}"


EMPTY = Fingerprint(0, 0, 0)


class Kind(StrEnum):
    """What is wrong in the base: a row is `missing`, `extra`, or `changed` (it has other contents)."""

    MISSING = "missing"
    EXTRA = "extra"
    CHANGED = "changed"


@dataclass(frozen=True)
class Difference:
    """One differing row; `key` maps the columns of the base's primary key to their text.

    `columns` names the columns that differ, for `changed` rows only. It holds no values: they may be personal data,
    and differences are shown on pages and in logs.
    """

    kind: Kind
    key: Mapping[str, str]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Differences:
    """Counts by kind, and a sample of rows. A row whose control column differs counts as one missing and one extra."""

    missing: int = 0
    extra: int = 0
    changed: int = 0
    sample: tuple[Difference, ...] = ()

    @property
    def rows(self) -> int:
        """All kinds together."""
        return self.missing + self.extra + self.changed

    def __str__(self) -> str:
        return f"{self.missing:,} missing, {self.extra:,} extra, {self.changed:,} changed"


PORTABLE_METHOD = "portable-v1"
"""Name of the method; a manifest keeps fingerprints for years, so that a new method needs a new name."""
