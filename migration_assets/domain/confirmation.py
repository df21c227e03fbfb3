"""The code that a person gives back before a step that cannot be undone, or that holds writes. Pure.

A step's dry run shows a code; the step itself asks for it. So nothing that was launched once does such a step again:
neither an old run that somebody executes once more, nor a link that he was made to click.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
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


def new_code() -> str:
    """Nobody guesses it in a quarter of an hour, nor finds it from its digest."""
    signs = (secrets.choice(_SIGNS) for _ in range(_GROUPS * _GROUP))
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
