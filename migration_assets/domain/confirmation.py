"""The code that a person gives back before a step that cannot be undone, or that holds writes. Pure.

A step's dry run shows a code; the step itself asks for it. So nothing that was launched once does such a step again:
neither an old run that somebody executes once more, nor a link that he was made to click.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from migration_assets.domain.errors import MigrationError

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
