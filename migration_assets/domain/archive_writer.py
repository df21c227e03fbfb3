"""Which ledger wrote an archive, and which files are therefore its own to replace. Pure.

A copy of the base has a copy of the ledger, with the same number in it, and the same settings. What tells it from the
one that it was copied from is where it lies: another database, another server, or another timeline of the same one.
"""

from dataclasses import dataclass, field
from typing import Self

from migration_assets.domain.errors import ArchiveError

_ADOPT = (
    "give this base a place of its own: MIGRATION_ARCHIVE_URL. Only where this base has taken the place of the other,"
    " which must never write there again: `migration-assets adopt-archive --by NAME`"
)
_MOVE_ASIDE = (
    "it may be the only copy of these rows: find out what it is; then move the week's folder to where no archive is"
    " looked for, by hand, keep it, and archive the week again"
)


class ForeignArchiveError(ArchiveError):
    """An archive lies there that this ledger did not write: it is never replaced, and nothing of it is deleted."""


@dataclass(frozen=True)
class LedgerIdentity:
    """A ledger's own number and the database that it lies in; as a text `number/system identifier/oid/timeline`."""

    ledger: str
    system_identifier: str
    database_oid: int
    timeline: int

    def __str__(self) -> str:
        return f"{self.ledger}/{self.system_identifier}/{self.database_oid}/{self.timeline}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError where it is no such text."""
        ledger, system, oid, timeline = text.split("/")
        return cls(ledger, system, int(oid), int(timeline))

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        return f"database {self.database_oid}, timeline {self.timeline}, of server {self.system_identifier}"


@dataclass(frozen=True)
class ArchiveWriter:
    """On whose behalf files are written.

    Attributes:
        identity: The ledger's, now.
        before: What it was before its base was moved: a person said so by name.
        manifests: SHA-256 of every manifest that this ledger recorded.
        owns_unsigned: Whether manifests that do not say who wrote them (format 1) may be its own: its base is the
            one that the ledger has known since the stream began.
    """

    identity: LedgerIdentity
    before: frozenset[str] = frozenset()
    manifests: frozenset[str] = field(default_factory=frozenset[str], repr=False)
    owns_unsigned: bool = True

    def is_self(self, ledger: str) -> bool:
        """Whether it is this ledger, now or before its move."""
        return ledger == str(self.identity) or ledger in self.before

    def wrote(self, ledger: str | None, sha256: str) -> bool:
        """Whether an archive in force is its own.

        One that it wrote before a move counts only where the ledger knows it: what the other base wrote after it had
        been copied is not in this ledger. What it wrote itself may be of a try that died before the ledger noted it.
        """
        if ledger == str(self.identity):
            return True
        mine = self.owns_unsigned if ledger is None else ledger in self.before
        return mine and sha256 in self.manifests

    def refusal(self, ledger: str | None, where: str, *, has_place: bool = False) -> ForeignArchiveError:
        """Why nothing is written beside what that ledger wrote.

        Args:
            ledger: Who wrote it; None where it does not say.
            where: The file or folder.
            has_place: The place is the writer's own already: to adopt it once more would change nothing.
        """
        if ledger is None:
            found = "an archive lies there that does not say which ledger wrote it, and this one does not know it"
        else:
            found = f"what lies there was written by {self._told(ledger)}"
        return ForeignArchiveError(
            found,
            where=where,
            state_left="nothing was written, replaced or deleted there",
            next_step=_MOVE_ASIDE if has_place else _ADOPT,
        )

    def _told(self, ledger: str) -> str:
        try:
            other = LedgerIdentity.parse(ledger)
        except ValueError:
            return "somebody else's ledger"
        if other.ledger != self.identity.ledger:
            return f"another ledger ({other.place})"
        if self.is_self(ledger):
            return f"the base that this one was copied from ({other.place}), after it was copied"
        return (
            f"the ledger that this one is a copy of: there the base is {other.place}, and here it is"
            f" {self.identity.place}"
        )
