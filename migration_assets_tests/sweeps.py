"""Which cases of a long sweep stay in `make test`; `make soak` runs all of them."""

from collections.abc import Collection, Iterable
from typing import Any, cast

import pytest


def telling(cases: Iterable[Any], stay: Collection[int]) -> list[Any]:
    """For `parametrize`: those at the places `stay` run always, the others with --soak only."""
    chosen: list[Any] = []
    for place, case in enumerate(cases):
        values = cast("tuple[Any, ...]", case) if isinstance(case, tuple) else (case,)
        chosen.append(pytest.param(*values, marks=() if place in stay else pytest.mark.soak))
    return chosen
