"""The codes that a person gives back before a step that cannot be undone, and the limits of deletions.

How many rows of a week may be deleted without asking is the same for every step, whatever the cause. Pure.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from migration_assets.domain.errors import CalendarError, DeletionError, MigrationError
from migration_assets.domain.fiscal_calendar import FiscalWeek

GOOD_FOR = timedelta(minutes=15)
_SIGNS = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  # without characters that are easily mistaken for one another
_GROUPS, _GROUP = 3, 4
SHOWN_CODE = re.compile(rf"\b[{_SIGNS}]{{{_GROUP}}}(-[{_SIGNS}]{{{_GROUP}}}){{{_GROUPS - 1}}}\b")
"""Matches a code within a text."""


class ConfirmationError(MigrationError):
    """The code is missing, wrong, expired, used, or was given for something else; nothing was touched."""


@dataclass(frozen=True)
class Deed:
    """The step that a code confirms.

    Attributes:
        relation: The table's key in the ledger.
        step: The name of the step, e.g. `cutover`.
        subject: The step's arguments; empty when it has none.
        how: How to get a code; an error shows it after "Next:".
    """

    relation: str
    step: str
    subject: str
    how: str

    def __str__(self) -> str:
        return f"{self.step} {self.subject}".strip()

    def refused(self, what: str) -> ConfirmationError:
        """The error for a refused confirmation; `what` is the reason."""
        return ConfirmationError(what, where=str(self), state_left="nothing was touched", next_step=self.how)


@dataclass(frozen=True)
class GivenCode:
    """A code as it is shown to a person, once.

    Attributes:
        code: Twelve characters in three groups.
        until: When it expires, by the base's clock.
    """

    code: str = field(repr=False)
    until: datetime

    def __str__(self) -> str:
        return f"{self.code} (good once, until {self.until:%H:%M:%S} UTC)"


@dataclass(frozen=True)
class CodeOfSeen:
    """A code computed from the observed state, for steps without a ledger; it stays the same while the state does.

    It prevents an old command line from being run again after the state changed. It is not a secret: anyone who can
    see the state can compute it.
    """

    code: str = field(repr=False)

    @classmethod
    def of(cls, seen: Mapping[str, Any]) -> "CodeOfSeen":
        """Compute the code of an observed state, which must be representable as JSON."""
        number = int.from_bytes(hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).digest())
        return cls(_grouped(_SIGNS[number // len(_SIGNS) ** place % len(_SIGNS)] for place in range(_GROUPS * _GROUP)))

    def require(self, typed: str, deed: Deed) -> None:
        """Check the code that a person typed.

        Raises:
            ConfirmationError: No code was typed, or another one.
        """
        if not typed.strip():
            raise deed.refused("it asks for a confirmation code, and none was given")
        if digest_of(typed) != digest_of(self.code):
            raise deed.refused("this confirmation code was not given for what is there now")

    def __str__(self) -> str:
        return f"{self.code} (good for as long as all of this is as it is)"


def new_code() -> str:
    """A random code, long enough that it cannot be guessed in 15 minutes or recovered from its digest."""
    return _grouped(secrets.choice(_SIGNS) for _ in range(_GROUPS * _GROUP))


def _grouped(signs: Iterable[str]) -> str:
    text = "".join(signs)
    return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def digest_of(code: str) -> str:
    """The SHA-256 of a code, which the ledger keeps; case, blanks and dashes do not matter."""
    return hashlib.sha256("".join(sign for sign in code.upper() if sign.isalnum()).encode()).hexdigest()


def codes_in(text: str) -> list[str]:
    """Every reading of a typed text: several codes between blanks or commas, or one with blanks instead of dashes."""
    parts = [text, *text.split(","), *re.split(r"[\s,]+", text)]
    return list(dict.fromkeys(part for part in parts if part.strip()))


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The sorted names of values that differ from those at the time when the code was given."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


@dataclass(frozen=True)
class DeletionLimit:
    """How many rows may be deleted without asking: the larger of `percent` of the week's rows and `rows`.

    A legacy that shows no row at all always needs a confirmation: a snapshot older than a table rewrite, a row-level
    security policy or a wrong database has the same effect.
    """

    percent: float = 20.0
    rows: int = 1_000

    def free(self, of: int) -> int:
        """How many of a week's `of` rows may be deleted without asking."""
        return max(self.rows, int(of * self.percent / 100))

    def asks(self, deleted: int, *, legacy: int, base: int) -> bool:
        """Whether a person must confirm the deletion of `deleted` rows of a week that has so many on each side."""
        return deleted > 0 and (legacy == 0 or deleted > self.free(base))


@dataclass(frozen=True)
class Deletions:
    """The limit, and what a person confirmed: the most rows that may be deleted, by week."""

    limit: DeletionLimit = field(default_factory=DeletionLimit)
    confirmed: Mapping[FiscalWeek, int] = field(default_factory=dict[FiscalWeek, int])

    def require(self, week: FiscalWeek, deleted: int, *, legacy: int, base: int, side: str = "base") -> None:
        """Refuse to delete more rows of a week than the limit allows or a person confirmed.

        Args:
            week: The week that the rows belong to.
            deleted: How many rows would be deleted.
            legacy: How many rows the legacy shows.
            base: How many rows the base has.
            side: The side that rows are deleted from; for the legacy the caller exchanges `legacy` and `base`.

        Raises:
            DeletionError: There are more; the error says how to confirm them.
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
            state_left="no row was deleted, and the week is as before; a stream that was being built or joined stays"
            " stopped until this is resolved",
            next_step=f"find out why the {other} does not show them: {causes}. To delete them, confirm their number:"
            f" run the same command again with --confirm-deletes '{asks_for}' ({steps}), or in the launchpad"
            f' with confirm_deletes: {{"{week.key}": {deleted}}}',
            asks_for=asks_for,
        )


def confirmation_text(week: FiscalWeek, rows: int) -> str:
    """The text that `parse_confirmations` reads, e.g. `FY25-Q2|W05=70`."""
    return f"{week.key}={rows}"


def parse_confirmations(texts: Iterable[str]) -> dict[FiscalWeek, int]:
    """Parse confirmed deletions, one text a week such as `FY25-Q2|W05=70`.

    Raises:
        CalendarError: A text cannot be read.
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
