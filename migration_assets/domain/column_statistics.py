"""What a manifest tells of a column without telling of a person. Pure."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from migration_assets.domain.stored_columns import Storage

RANGED = frozenset(
    {Storage.INTEGER, Storage.FLOAT, Storage.DECIMAL, Storage.DATE, Storage.TIMESTAMP, Storage.TIMESTAMPTZ}
)
"""Numbers and times, whose smallest and largest value is told; those of other columns are personal data."""


@dataclass(frozen=True)
class ColumnStatistics:
    """Of one column in one slice; `minimum` and `maximum` are PostgreSQL's text, None where there is no value."""

    nulls: int
    minimum: str | None = None
    maximum: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """As it was."""
        return cls(**stored)
