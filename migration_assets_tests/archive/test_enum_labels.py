"""Which label of now a label of then is: told where it can be, and never guessed."""

import pytest

from migration_assets.archive.shown_values import renamed_labels


@pytest.mark.parametrize(
    ("then", "now", "names"),
    [
        ("ab", "ab", {"a": "a", "b": "b"}),
        ("abc", "axc", {"a": "a", "b": "x", "c": "c"}),
        ("abc", "axyc", None),  # one was added beside it: before or behind?
        ("abc", "abzc", {"a": "a", "b": "b", "c": "c"}),
        ("abc", "xybc", None),
        ("abcd", "xybd", None),
        ("abcd", "aypd", {"a": "a", "b": "y", "c": "p", "d": "d"}),
        ("ab", "ba", None),  # renamed to each other's names, or made anew
        ("ab", "bc", None),  # b may be what was a
        ("ab", "", None),
        ("", "ab", {}),
    ],
)
def test_labels_are_found_again(then: str, now: str, names: dict[str, str] | None) -> None:
    assert renamed_labels(tuple(then), tuple(now)) == names
