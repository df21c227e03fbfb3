"""What a proof saw of the tables themselves: how they are defined, and in which files their rows are. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class TableState:
    """One table at one moment.

    Attributes:
        oid: A table that was made anew has another.
        filenode: Of its rows; another after every rewrite and TRUNCATE. None for a partitioned table.
        toast: The same of its long values.
        digest: SHA-256 over its columns, their types' structure and what else changes what a value means.
    """

    oid: int
    filenode: int | None
    toast: int | None
    digest: str

    def change_to(self, now: "TableState | None") -> str | None:
        """What happened to it since, as the end of a sentence; None for nothing."""
        if now is None:
            return "is gone"
        if self.digest != now.digest:
            return "was altered"
        if self.oid != now.oid:
            return "was made anew"
        if (self.filenode, self.toast) != (now.filenode, now.toast):
            # By VACUUM FULL or CLUSTER, which change nothing; or by an ALTER TABLE that was taken back, or by TRUNCATE.
            return "was rewritten"
        return None


@dataclass(frozen=True)
class Definitions:
    """Both tables of a proof: the legacy's, and the root and the leaf of the base; None where a side was not read.

    `alterations` is how often somebody had altered the stream by hand; None where the proof does not rest on it.
    """

    legacy: TableState | None
    root: TableState | None
    leaf: TableState | None
    alterations: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As the ledger keeps it, and signatures: as before where the stream counts for nothing."""
        kept = asdict(self)
        if self.alterations is None:
            del kept["alterations"]
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any] | None) -> Self | None:
        """What the ledger kept; None where that is nothing."""
        if not kept:
            return None

        def state(name: str) -> TableState | None:
            return TableState(**kept[name]) if kept.get(name) else None

        return cls(state("legacy"), state("root"), state("leaf"), kept.get("alterations"))

    def why_stale(
        self,
        *,
        legacy: TableState | None = None,
        root: TableState | None,
        leaf: TableState | None,
        alterations: int | None = None,
    ) -> str | None:
        """What was done to the tables since then; None for nothing.

        Args:
            legacy: As it is now; None where nobody looked.
            root: As it is now; None where it is gone.
            leaf: The same.
            alterations: Of the stream, by now; None where that is not known.
        """
        changes = (
            ("the legacy's table", self.legacy.change_to(legacy) if self.legacy and legacy else None),
            ("the base's table", _change(self.root, root)),
            ("the leaf", _change(self.leaf, leaf)),
            ("the change stream", "was altered by hand" if self._altered(alterations) else None),
        )
        found = [f"{what} {change}" for what, change in changes if change]
        return " and ".join(found) or None

    def _altered(self, alterations: int | None) -> bool:
        return self.alterations is not None and alterations is not None and alterations > self.alterations


def _change(then: TableState | None, now: TableState | None) -> str | None:
    if then is None:
        return None if now is None else "was not there"
    return then.change_to(now)
