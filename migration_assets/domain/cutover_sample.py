"""What one look saw of cutovers: who is in charge, whose writes are refused, how the reverse stream is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from migration_assets.domain.cutover_state import SideName

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class UnderWay:
    """A cutover or rollback that is not finished. `pid` is its process's session on the base; None: it died.

    `timeout_seconds` is its own: one that still holds writes a little later does not answer.
    """

    id: int
    kind: str
    state: str
    pid: int | None
    opened: bool = False
    timeout_seconds: float | None = None

    @property
    def alive(self) -> bool:
        """Whether its process works."""
        return self.pid is not None

    @property
    def name(self) -> str:
        """E.g. `cutover 3`."""
        return f"{self.kind} {self.id}"


@dataclass(frozen=True)
class HeldSample:
    """Writes are refused on the side that they belong to. `seconds` by its own clock; None where nobody noted it."""

    side: str
    seconds: float | None
    what: str
    next_step: str


@dataclass(frozen=True)
class ReverseSample:
    """The stream from the base to the legacy; None is "not known".

    Attributes:
        name: Of its publication, slot and subscription.
        subscription_exists: On the legacy.
        subscription_enabled: As `pg_subscription` has it there.
        worker_runs: Whether an apply worker was seen on the legacy.
        apply_errors: `apply_error_count` there.
        slot_exists: On the base.
        slot_active: A walsender reads it.
        wal_status: As of any slot.
        retained_wal_bytes: WAL that the base keeps for it.
        arrived: Whether this look's marker came to the legacy in time.
        lag_seconds: How long it took; where it did not come, the age of the oldest marker that is not there yet.
        marker_error: Why none could be sent or looked for.
    """

    name: str
    subscription_exists: bool | None = None
    subscription_enabled: bool | None = None
    worker_runs: bool | None = None
    apply_errors: int | None = None
    slot_exists: bool | None = None
    slot_active: bool | None = None
    wal_status: str | None = None
    retained_wal_bytes: int | None = None
    arrived: bool | None = None
    lag_seconds: float | None = None
    marker_error: str | None = None


@dataclass(frozen=True)
class CutoverSample:
    """Everything of cutovers at one look.

    Attributes:
        in_charge: The side that writes belong to, by the ledger; None where the base could not be asked.
        since: Since when; None where no cutover was ever done.
        cutover: Which cutover or rollback made it so.
        approved_by: Who approved it.
        under_way: One that is not finished.
        stream_barred: Nobody but a cutover or rollback may let the change stream go on.
        accepts: Whether the side in charge accepts writes; of a base that is away, whether the legacy does.
        held: How, where it does not.
        legacy_accepts: Whether the legacy would take a write, of whomever.
        legacy_gaps: Through what, in words; one that is held has none.
        unguarded: Tables of the base in charge of which a TRUNCATE would not reach the legacy.
        lost_leaves: Weeks that a base in charge has no leaf for, each with the statement that brings it back.
        reverse: While the base is in charge.
        decommissioned: Since when the legacy is closed for good.
        changed: Something of this changed during the look, which then proves nothing.
        ledger: Whether the base has a ledger that could know of it.
    """

    in_charge: SideName | None = "legacy"
    since: datetime | None = None
    cutover: int | None = None
    approved_by: str | None = None
    under_way: UnderWay | None = None
    stream_barred: bool = False
    accepts: bool | None = None
    held: HeldSample | None = None
    legacy_accepts: bool | None = None
    legacy_gaps: str = ""
    unguarded: str = ""
    lost_leaves: str = ""
    reverse: ReverseSample | None = None
    decommissioned: datetime | None = None
    changed: bool = False
    ledger: bool = True

    @property
    def base_in_charge(self) -> bool:
        """Whether writes belong to the base."""
        return self.in_charge == "base"

    @property
    def text(self) -> str | None:
        """Who is in charge since when, in words; None before any cutover."""
        if self.since is None:
            return None
        return f"the {self.in_charge} is in charge since {self.since:%Y-%m-%d %H:%M:%S %Z} ({self.how})"

    @property
    def how(self) -> str:
        """E.g. `cutover 3`."""
        return f"{'cutover' if self.base_in_charge else 'rollback'} {self.cutover}"

    @property
    def decommission_text(self) -> str | None:
        """E.g. `decommissioned at …`; None while a rollback could be."""
        if self.decommissioned is None:
            return None
        return f"the legacy was decommissioned at {self.decommissioned:%Y-%m-%d %H:%M:%S %Z}"

    @property
    def case(self) -> str | None:
        """What is the case, in words: who is in charge, how the reverse stream is, what is under way; or None."""
        parts = [self.text] if self.base_in_charge and self.text else []
        if self.decommission_text is not None:
            parts.append(self.decommission_text)
        elif self.base_in_charge:
            parts.append(f"the reverse stream {self._reverse_case()}")
        if self.under_way is not None:
            how = "is under way" if self.under_way.alive else "was left by a process that died"
            parts.append(f"{self.under_way.name} {how}, at {self.under_way.state}")
        return "; ".join(parts) or None

    def _reverse_case(self) -> str:
        reverse = self.reverse
        if reverse is None or reverse.subscription_exists is None:
            return "cannot be seen"
        if not reverse.subscription_exists or not reverse.slot_exists:
            return "is gone"
        if not reverse.subscription_enabled:
            return "is disabled"
        if not reverse.arrived:
            return "brings nothing to the legacy"
        return "runs" if reverse.lag_seconds is None else f"runs, {reverse.lag_seconds:,.2f} s behind"

    @property
    def worth_watching(self) -> bool:
        """Whether there is something to say of cutovers where no change stream is."""
        return self.held is not None or self.base_in_charge or self.under_way is not None

    def to_json(self) -> dict[str, Any]:
        """`from_json` makes it again."""
        times = {name: value.isoformat() for name in ("since", "decommissioned") if (value := getattr(self, name))}
        return {**asdict(self), **times}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "CutoverSample":
        """As it was, without what another version wrote besides."""
        values = _known(cls, stored)
        for name, part in (("under_way", UnderWay), ("held", HeldSample), ("reverse", ReverseSample)):
            if values.get(name) is not None:
                values[name] = part(**_known(part, values[name]))
        for name in ("since", "decommissioned"):
            if values.get(name) is not None:
                values[name] = datetime.fromisoformat(values[name])
        return cls(**values)


def _known(part: type[_Made], stored: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(part)}  # pyright: ignore[reportArgumentType]
    return {name: value for name, value in stored.items() if name in names}
