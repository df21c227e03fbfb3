"""What a contender is, and what one run of it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.clients import Usage
from benchmarks.lab import Lab


@dataclass(frozen=True)
class Run:
    """One measured run. `seconds` is its headline; `validated_seconds` adds the proof that both sides are equal.

    `slice_seconds` are sums over all slices of the phases that the ledger noted, several slices at a time.
    """

    contender: str
    usage: Usage
    seconds: float
    validated_seconds: float | None
    slice_seconds: dict[str, float] = field(default_factory=dict[str, float])
    notes: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Contender:
    """A way to move the whole table into an empty base; `skip` says why it cannot run here, if so."""

    name: str
    title: str
    run: Callable[[Lab, int], Run]
    skip: str | None = None
