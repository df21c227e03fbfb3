"""Who really did it: beside the name that somebody typed, what the machine knows. Pure: no clock, no database."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from migration_assets.domain.plain_text import UNPRINTABLE

# What Dagster, or whoever launches its runs, calls the person; everything else in a run's tags is not about persons.
USER_TAGS = ("user", "dagster/user")
_LONGEST = 200


@dataclass(frozen=True)
class Doer:
    """A process of this program: its user and machine, and who launched the run that it works for.

    `os_user` may be empty (a container's number without a name); `tags` are those of `USER_TAGS` that the run has.
    """

    os_user: str
    host: str
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    def as_json(self) -> str:
        """For a setting of a session, from which the ledger takes it; its own part, the role, the server adds."""
        tags = {name: _fit(value) for name, value in self.tags.items()}
        return json.dumps({"os_user": _fit(self.os_user), "host": _fit(self.host), "tags": tags})


def _fit(text: str) -> str:
    """Whoever launches a run writes its tags, and what no jsonb can hold would keep its deeds from the ledger."""
    return UNPRINTABLE.sub(" ", text[:_LONGEST]).encode("utf-8", "replace").decode()


def doer_text(done_by: object) -> str:
    """What the ledger noted, for people; empty where it was written before it noted such things, or by nobody of us."""
    noted = _named(done_by)
    if "role" not in noted:
        return ""
    host = noted.get("host")
    process = [f"{noted.get('os_user') or 'somebody'} on {host}"] if host else []
    tags = [f"{name} {value}" for name, value in _named(noted.get("tags")).items()]
    return ", ".join([f"role {noted['role']}", *process, *tags])


def _named(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
