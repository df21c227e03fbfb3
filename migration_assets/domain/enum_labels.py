"""What became of an enum's labels since rows were written with them. Pure.

PostgreSQL renames labels and adds some; it drops none, and moves none.
"""

from collections.abc import Sequence


def renamed_labels(then: Sequence[str], now: Sequence[str]) -> dict[str, str] | None:
    """Every label of then and its name now; None where that cannot be told, or the type is another one by now.

    Args:
        then: The labels in their order, as the rows were written.
        now: As they are.
    """
    names: dict[str, str] = {}
    kept = [label for label in then if label in now]
    if kept != [label for label in now if label in then]:
        return None  # one was renamed to what another one had been called, or the type was made anew
    for old, new in zip(_between(then, kept), _between(now, kept), strict=True):
        if old and len(old) != len(new):
            return None
        names.update(zip(old, new, strict=False))
    return names | {label: label for label in kept}


def _between(labels: Sequence[str], kept: Sequence[str]) -> list[list[str]]:
    """The labels before, between and behind those that are on both sides."""
    gaps: list[list[str]] = [[]]
    for label in labels:
        if label in kept:
            gaps.append([])
        else:
            gaps[-1].append(label)
    return gaps
