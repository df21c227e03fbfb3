"""Fingerprints add like the sets of rows that they stand for."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migration_assets.domain.fingerprint import EMPTY, Fingerprint

_SUMS = st.integers(-(2**100), 2**100)
_FINGERPRINTS = st.just(EMPTY) | st.builds(Fingerprint, st.integers(1, 2**60), _SUMS, _SUMS)


@given(_FINGERPRINTS, _FINGERPRINTS, _FINGERPRINTS)
def test_addition_ignores_order_and_grouping(a: Fingerprint, b: Fingerprint, c: Fingerprint) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)


@given(_FINGERPRINTS)
def test_nothing_added_changes_nothing(a: Fingerprint) -> None:
    assert a + EMPTY == a == EMPTY + a


@given(_FINGERPRINTS, _FINGERPRINTS, _FINGERPRINTS)
def test_a_difference_survives_every_addition(a: Fingerprint, b: Fingerprint, c: Fingerprint) -> None:
    assert (a + c == b + c) == (a == b)


@given(st.integers(1, 2**60), _SUMS, _SUMS)
def test_what_the_database_returned_is_kept_exactly(rows: int, sum_a: int, sum_b: int) -> None:
    """A float would lose the last digits of 31."""
    assert Fingerprint.from_row(rows, Decimal(sum_a), Decimal(sum_b)) == Fingerprint(rows, sum_a, sum_b)


def test_sums_over_no_rows_are_null_in_the_database_and_zero_here() -> None:
    assert Fingerprint.from_row(0, None, None) == EMPTY


@pytest.mark.parametrize("values", [(-1, 0, 0), (0, 1, 0), (0, 0, -1)])
def test_an_impossible_fingerprint_cannot_be_built(values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="rows"):
        Fingerprint(*values)


@given(_FINGERPRINTS, _FINGERPRINTS)
def test_checksums_are_compared_apart_from_row_counts(a: Fingerprint, b: Fingerprint) -> None:
    assert a.same_checksums(b) == (a.sum_a == b.sum_a and a.sum_b == b.sum_b)
    assert (a == b) == (a.same_checksums(b) and a.rows == b.rows)


@given(_FINGERPRINTS)
def test_the_text_for_people_has_32_digits_and_the_row_count(a: Fingerprint) -> None:
    assert len(a.checksum) == 32
    assert int(a.checksum, 16) >= 0
    assert str(a) == f"{a.rows:,} rows, checksum {a.checksum}"
