"""The states of the legacy's decommissioning, and what may stand in its way."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from migration_assets.domain.errors import MigrationError

Scope = Literal["database", "table"]


class DecommissionError(MigrationError):
    """The legacy was not decommissioned, or not completely, or it is and something else was asked for."""


class DecommissionState(StrEnum):
    """How far it is.

    `begun`: the reverse stream is drained and stopped, and the legacy is fingerprinted. `fingerprinted`: that is
    done; until here a rollback is possible, and calls it off. From `closed` on there is no way back, and the legacy is
    being closed; `severed`: it is closed, and the reverse stream is being taken away; `done`.
    """

    BEGUN = "begun"
    FINGERPRINTED = "fingerprinted"
    CLOSED = "closed"
    SEVERED = "severed"
    DONE = "done"

    @property
    def final(self) -> bool:
        """Whether there is no way back."""
        return self in {DecommissionState.CLOSED, DecommissionState.SEVERED, DecommissionState.DONE}


@dataclass(frozen=True)
class Obstacle:
    """One thing that stands in the way, and what removes it."""

    code: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}. Remedy: {self.remedy}"
