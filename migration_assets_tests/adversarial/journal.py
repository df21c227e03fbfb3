"""What the applications were told: every acknowledged commit, key by key, as text. The judge of everything else."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from migration_assets_tests.adversarial.table import Side

Texts = Mapping[int, str | None]


@dataclass
class Journal:
    """For each key the texts that its row may have: one, unless the answer to a COMMIT was lost. None: no such row."""

    allowed: dict[int, set[str | None]] = field(default_factory=dict[int, set[str | None]])
    acknowledged: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0
    unknown: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, rows: Iterable[tuple[int, str]]) -> None:
        """What the table held before anybody wrote."""
        self.allowed = {key: {text} for key, text in rows}

    def commit(self, side: Side, changes: Texts) -> None:
        """The server said that these rows are so now (None: deleted)."""
        with self._lock:
            self.acknowledged[side] += 1
            for key, text in changes.items():
                self.allowed[key] = {text}

    def lost(self, changes: Texts) -> None:
        """COMMIT was sent, and no answer came: both are right."""
        with self._lock:
            self.unknown += 1
            for key, text in changes.items():
                self.allowed.setdefault(key, {None}).add(text)

    def wrong(self, found: Mapping[int, str], besides: frozenset[int] = frozenset()) -> list[str]:
        """What a table holds that was never acknowledged so; in sentences, a few of them."""
        with self._lock:
            said = [
                f"key {key}: the applications were told {_shown(texts)}, found {_shown({found.get(key)})}"
                for key, texts in self.allowed.items()
                if key not in besides and found.get(key) not in texts
            ]
            strange = [key for key in found if key not in self.allowed and key not in besides]
        return [*said[:5], *(f"key {key} was never acknowledged: {found[key][:80]}" for key in strange[:5])]


def _shown(texts: set[str | None]) -> str:
    return " or ".join("no row" if text is None else text[:80] for text in texts)
