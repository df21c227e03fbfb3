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
_SIGNS = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  # none that is read as another one
_GROUPS, _GROUP = 3, 4
SHOWN_CODE = re.compile(rf"\b[{_SIGNS}]{{{_GROUP}}}(-[{_SIGNS}]{{{_GROUP}}}){{{_GROUPS - 1}}}\b")
"""A code in a text."""


class ConfirmationError(MigrationError):
    """The code is missing, wrong, too old, used, or was given for something else; nothing was touched."""


@dataclass(frozen=True)
class Deed:
    """What a code is good for.

    Attributes:
        relation: The table's key in the ledger.
        step: What is done: `cutover`.
        subject: With which arguments; empty where it has none.
        how: How to get a code, to follow "Next:".
    """

    relation: str
    step: str
    subject: str
    how: str

    def __str__(self) -> str:
        return f"{self.step} {self.subject}".strip()

    def refused(self, what: str) -> ConfirmationError:
        """The error that says why it is not done."""
        return ConfirmationError(what, where=str(self), state_left="nothing was touched", next_step=self.how)


@dataclass(frozen=True)
class GivenCode:
    """A code as it is shown, once.

    Attributes:
        code: Twelve signs in three groups.
        until: It is good till then, by the base's clock.
    """

    code: str = field(repr=False)
    until: datetime

    def __str__(self) -> str:
        return f"{self.code} (good once, until {self.until:%H:%M:%S} UTC)"


@dataclass(frozen=True)
class CodeOfSeen:
    """A code that says what was seen, where no ledger can keep one: the same for as long as that is the same.

    It keeps a line of before from being run again, and nobody out who can look for himself.
    """

    code: str = field(repr=False)

    @classmethod
    def of(cls, seen: Mapping[str, Any]) -> "CodeOfSeen":
        """Of what can be written as JSON."""
        number = int.from_bytes(hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).digest())
        return cls(_grouped(_SIGNS[number // len(_SIGNS) ** place % len(_SIGNS)] for place in range(_GROUPS * _GROUP)))

    def require(self, typed: str, deed: Deed) -> None:
        """See that it was given back.

        Raises:
            ConfirmationError: It was not.
        """
        if not typed.strip():
            raise deed.refused("it asks for a confirmation code, and none was given")
        if digest_of(typed) != digest_of(self.code):
            raise deed.refused("this confirmation code was not given for what is there now")

    def __str__(self) -> str:
        return f"{self.code} (good for as long as all of this is as it is)"


def new_code() -> str:
    """Nobody guesses it in a quarter of an hour, nor finds it from its digest."""
    return _grouped(secrets.choice(_SIGNS) for _ in range(_GROUPS * _GROUP))


def _grouped(signs: Iterable[str]) -> str:
    text = "".join(signs)
    return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def digest_of(code: str) -> str:
    """What the ledger keeps of it; small letters, blanks and missing dashes are no other code."""
    return hashlib.sha256("".join(sign for sign in code.upper() if sign.isalnum()).encode()).hexdigest()


def codes_in(text: str) -> list[str]:
    """What a person may mean by it: several codes between blanks or commas, or one with blanks for its dashes."""
    parts = [text, *text.split(","), *re.split(r"[\s,]+", text)]
    return list(dict.fromkeys(part for part in parts if part.strip()))


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what is not as it was when the code was given."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


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
