"""The state of the tables that a proof saw: their definitions, and the files that hold their rows. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class TableState:
    """One table at one moment.

    Attributes:
        oid: The table's oid; a table that was created again has another one.
        filenode: The file of its rows; it changes with every rewrite and TRUNCATE. None for a partitioned table.
        toast: The file of its TOAST table, in the same way.
        digest: SHA-256 over its columns, the structure of their types, and everything else that gives values meaning.
    """

    oid: int
    filenode: int | None
    toast: int | None
    digest: str

    def change_to(self, now: "TableState | None") -> str | None:
        """What happened to the table since, as the end of a sentence; None if nothing did."""
        if now is None:
            return "is gone"
        if self.digest != now.digest:
            return "was altered"
        if self.oid != now.oid:
            return "was made anew"
        if (self.filenode, self.toast) != (now.filenode, now.toast):
            # VACUUM FULL and CLUSTER do this without changing a row; TRUNCATE and a reverted ALTER TABLE do it, too.
            return "was rewritten"
        return None


@dataclass(frozen=True)
class Definitions:
    """The tables of a proof: the legacy's, and the base's root and leaf; None for a table that was not read.

    `alterations` is how often the stream had been altered by hand; None if the proof does not depend on the stream.
    """

    legacy: TableState | None
    root: TableState | None
    leaf: TableState | None
    alterations: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The JSON that the ledger and sign-offs keep; `alterations` is left out if None, as older versions did."""
        kept = asdict(self)
        if self.alterations is None:
            del kept["alterations"]
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any] | None) -> Self | None:
        """Read what the ledger kept; None if it kept nothing."""
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
        """What was done to the tables since the proof, in words; None if nothing was.

        Args:
            legacy: The legacy's table now; None if it was not examined.
            root: The base's root now; None if it is gone.
            leaf: The base's leaf now; None if it is gone.
            alterations: The number of alterations of the stream now; None if unknown.
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
