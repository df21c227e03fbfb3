"""Codes are read and typed by people, and no two are alike."""

import re
from datetime import UTC, datetime

import pytest

from migration_assets.domain.confirmation import (
    CodeOfSeen,
    ConfirmationError,
    Deed,
    GivenCode,
    changed,
    codes_in,
    digest_of,
    new_code,
)


def test_a_code_is_twelve_signs_of_which_none_is_read_as_another() -> None:
    codes = {new_code() for _ in range(2_000)}
    assert len(codes) == 2_000
    assert all(re.fullmatch(r"[A-HJKMNP-TV-Z2-9]{4}(-[A-HJKMNP-TV-Z2-9]{4}){2}", code) for code in codes)


def test_how_it_is_typed_does_not_matter_and_every_sign_does() -> None:
    assert digest_of(" abcd efgh-jkmn ") == digest_of("ABCD-EFGH-JKMN")
    assert digest_of("ABCD-EFGH-JKMP") != digest_of("ABCD-EFGH-JKMN")


def test_several_codes_stand_between_blanks_or_commas_and_one_may_have_blanks_for_its_dashes() -> None:
    wanted = {digest_of("ABCD-EFGH-JKMN"), digest_of("PQRS-TVWX-YZ23")}
    for text in (
        "ABCD-EFGH-JKMN PQRS-TVWX-YZ23",
        "ABCD-EFGH-JKMN,PQRS-TVWX-YZ23",
        " abcd efgh jkmn,\nPQRS TVWX YZ23 ",
        "ABCD-EFGH-JKMN (good once, until 10:00:00 UTC)\nPQRS-TVWX-YZ23 (good once, until 10:00:01 UTC)",
    ):
        assert wanted <= {digest_of(code) for code in codes_in(text)}, text
    assert digest_of("ABCD-EFGH-JKMN") in {digest_of(code) for code in codes_in("ABCD EFGH JKMN")}
    assert codes_in(" ") == []


def test_a_code_of_what_was_seen_is_another_as_soon_as_anything_of_it_is() -> None:
    seen = CodeOfSeen.of({"slot": ["a", "0/1"], "steps": []})
    assert re.fullmatch(r"[A-HJKMNP-TV-Z2-9]{4}(-[A-HJKMNP-TV-Z2-9]{4}){2}", seen.code)
    assert seen == CodeOfSeen.of({"steps": [], "slot": ["a", "0/1"]})
    assert len({CodeOfSeen.of({"slot": ["a", f"0/{at}"], "steps": []}).code for at in range(1_000)}) == 1_000
    deed = Deed("public.bookings", "abandon", "the legacy alone", "look again")
    seen.require(f" {seen.code.lower()} ", deed)
    for typed in ("", "ABCD-EFGH-JKMN"):
        with pytest.raises(ConfirmationError, match="confirmation code"):
            seen.require(typed, deed)
    assert seen.code not in repr(seen)


def test_a_code_is_shown_when_asked_for_and_in_no_repr() -> None:
    given = GivenCode("ABCD-EFGH-JKMN", datetime(2024, 6, 15, 12, tzinfo=UTC))
    assert str(given).startswith("ABCD-EFGH-JKMN (good once, until ")
    assert "ABCD" not in repr(given)


def test_what_changed_is_named() -> None:
    assert changed({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}) == ["b", "c", "d"]
