"""How many rows of a week we may delete without asking a person, whatever the cause. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from migration_assets.domain.errors import CalendarError, DeletionError
from migration_assets.domain.fiscal_calendar import FiscalWeek


@dataclass(frozen=True)
class DeletionLimit:
    """What goes without asking: up to `percent` of the week's rows in the base, and up to `rows` in any case.

    A legacy that shows no row at all always asks: a snapshot older than a rewrite, a policy, or another database does.
    """

    percent: float = 20.0
    rows: int = 1_000

    def free(self, of: int) -> int:
        """How many of so many rows may be deleted without asking."""
        return max(self.rows, int(of * self.percent / 100))

    def asks(self, deleted: int, *, legacy: int, base: int) -> bool:
        """Whether a person must confirm that so many rows are deleted, where the sides hold so many."""
        return deleted > 0 and (legacy == 0 or deleted > self.free(base))


@dataclass(frozen=True)
class Deletions:
    """The limit, and what a person confirmed: of these weeks at most so many rows."""

    limit: DeletionLimit = field(default_factory=DeletionLimit)
    confirmed: Mapping[FiscalWeek, int] = field(default_factory=dict[FiscalWeek, int])

    def require(self, week: FiscalWeek, deleted: int, *, legacy: int, base: int, side: str = "base") -> None:
        """Refuse to delete more than may be.

        Args:
            week: Whose rows.
            deleted: How many would be.
            legacy: How many rows the legacy shows.
            base: How many the base has.
            side: From which side; for the legacy the two numbers are meant the other way round.

        Raises:
            DeletionError: It is more; says how to confirm it.
        """
        if not self.limit.asks(deleted, legacy=legacy, base=base) or deleted <= self.confirmed.get(week, 0):
            return
        other = "legacy" if side == "base" else "base"
        causes = "the database behind MIGRATION_LEGACY_URL, a TRUNCATE or DELETE there, a restored backup"
        steps = "repair; stream start, resume, recover"
        if side == "legacy":
            causes, steps = "a DELETE there that did not reach the legacy, a restored backup", "repair-legacy"
        asks_for = confirmation_text(week, deleted)
        raise DeletionError(
            f"{deleted:,} of the week's {base:,} rows would be deleted from the {side}: the {other} shows {legacy:,}",
            where=week.key,
            state_left="no row was deleted, the week is as before; a stream that was being built or joined stands till"
            " then",
            next_step=f"see why the {other} does not show them: {causes}. If they are to go, confirm their number: run"
            f" the same again with --confirm-deletes '{asks_for}' ({steps}), or in the launchpad"
            f' with confirm_deletes: {{"{week.key}": {deleted}}}',
            asks_for=asks_for,
        )


def confirmation_text(week: FiscalWeek, rows: int) -> str:
    """As `parse_confirmations` reads it."""
    return f"{week.key}={rows}"


def parse_confirmations(texts: Iterable[str]) -> dict[FiscalWeek, int]:
    """`FY25-Q2|W05=70` for every week.

    Raises:
        CalendarError: One cannot be read.
    """
    found: dict[FiscalWeek, int] = {}
    for text in texts:
        key, _, number = text.strip().rpartition("=")
        if not number.isdecimal():
            raise CalendarError(
                f"{text!r} does not say how many rows of which week",
                next_step="write the week and the number of rows that may be deleted: 'FY25-Q2|W05=70'",
            )
        found[FiscalWeek.parse(key.upper())] = int(number)
    return found
