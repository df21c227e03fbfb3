"""Which rows of a slice differ between legacy and base."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is wrong in the base: a row is `missing`, there is one too many (`extra`), or it has other contents."""

    MISSING = "missing"
    EXTRA = "extra"
    CHANGED = "changed"


@dataclass(frozen=True)
class Difference:
    """One row; `key` maps the columns of the base's primary key to their text.

    `columns` names those that differ, for `changed` rows alone. Values stay out: they may be personal data, and this
    is shown in pages and logs.
    """

    kind: Kind
    key: Mapping[str, str]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Differences:
    """Counts by kind, and a sample of the rows. A row whose control column differs is one missing and one extra."""

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
