"""Codes are read and typed by people, and no two are alike."""

import re
from datetime import UTC, datetime

from migration_assets.domain.confirmation import GivenCode, changed, digest_of, new_code


def test_a_code_is_twelve_signs_of_which_none_is_read_as_another() -> None:
    codes = {new_code() for _ in range(2_000)}
    assert len(codes) == 2_000
    assert all(re.fullmatch(r"[A-HJKMNP-TV-Z2-9]{4}(-[A-HJKMNP-TV-Z2-9]{4}){2}", code) for code in codes)


def test_how_it_is_typed_does_not_matter_and_every_sign_does() -> None:
    assert digest_of(" abcd efgh-jkmn ") == digest_of("ABCD-EFGH-JKMN")
    assert digest_of("ABCD-EFGH-JKMP") != digest_of("ABCD-EFGH-JKMN")


def test_a_code_is_shown_when_asked_for_and_in_no_repr() -> None:
    given = GivenCode("ABCD-EFGH-JKMN", datetime(2024, 6, 15, 12, tzinfo=UTC))
    assert str(given).startswith("ABCD-EFGH-JKMN (good once, until ")
    assert "ABCD" not in repr(given)


def test_what_changed_is_named() -> None:
    assert changed({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}) == ["b", "c", "d"]
