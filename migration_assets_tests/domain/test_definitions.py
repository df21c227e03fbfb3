"""What was done to a table since a proof saw it."""

from dataclasses import replace

import pytest

from migration_assets.domain.definitions import Definitions, TableState

LEGACY = TableState(1, 2, 3, "d")
ROOT = TableState(4, None, None, "d")
LEAF = TableState(5, 6, None, "d")
SEEN = Definitions(LEGACY, ROOT, LEAF)


def test_what_the_ledger_keeps_says_all_of_it() -> None:
    assert Definitions.from_json(SEEN.as_json()) == SEEN
    alone = Definitions(None, ROOT, None)
    assert Definitions.from_json(alone.as_json()) == alone
    assert Definitions.from_json(None) is None


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, None),
        ({"legacy": None}, None),
        ({"legacy": replace(LEGACY, digest="e")}, "the legacy's table was altered"),
        ({"legacy": replace(LEGACY, toast=9)}, "the legacy's table was rewritten"),
        ({"root": replace(ROOT, digest="e")}, "the base's table was altered"),
        ({"root": None}, "the base's table is gone"),
        ({"leaf": replace(LEAF, filenode=9)}, "the leaf was rewritten"),
        ({"leaf": replace(LEAF, oid=9, filenode=9)}, "the leaf was made anew"),
        ({"leaf": None}, "the leaf is gone"),
        (
            {"legacy": replace(LEGACY, filenode=9), "leaf": replace(LEAF, digest="e")},
            "the legacy's table was rewritten and the leaf was altered",
        ),
    ],
)
def test_every_change_has_its_words(now: dict[str, TableState | None], said: str | None) -> None:
    sides: dict[str, TableState | None] = {"legacy": LEGACY, "root": ROOT, "leaf": LEAF} | now
    assert SEEN.why_stale(legacy=sides["legacy"], root=sides["root"], leaf=sides["leaf"]) == said


def test_a_leaf_that_was_not_there_and_is_now_is_no_longer_what_was_seen() -> None:
    assert Definitions(LEGACY, ROOT, None).why_stale(legacy=LEGACY, root=ROOT, leaf=LEAF) == "the leaf was not there"
