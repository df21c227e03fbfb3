"""A chain of records: what was changed, removed, swapped or put in behind its back is found, and named."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from migration_assets.domain.evidence_chain import (
    FIRST,
    ChainKind,
    ChainRecord,
    RowKey,
    breaks,
    genesis_payload,
    head_of,
    missing_head,
    sealed,
)

AT = datetime(2024, 6, 24, 12, tzinfo=UTC)
OLD: dict[RowKey, dict[str, Any]] = {("sign_off", 1): {"approved_by": "Ada", "quarter": "FY25-Q1"}}
LEDGER: dict[RowKey, dict[str, Any]] = {
    **OLD,
    ("sign_off", 2): {"approved_by": "Ada", "quarter": "FY25-Q2"},
    ("archive", 7): {"rows": 310, "sum_a": "99999999999999999999"},
    ("sign_off", 3): {"approved_by": "Bob", "quarter": "FY25-Q3"},
}


def chain() -> list[ChainRecord]:
    records: list[ChainRecord] = []

    def put(kind: str, payload: dict[str, Any]) -> None:
        before = records[-1] if records else None
        records.append(sealed(before, relation="public.t", kind=kind, quarter=None, payload=payload, at=AT, run_id="r"))

    put("genesis", genesis_payload("public.t", OLD))
    for kind, row in (("sign_off", 2), ("archive", 7), ("sign_off", 3)):
        put(kind, {"row": row, **LEDGER[kind, row]})
    put("pack", {"sha256": FIRST})
    return records


def said(records: list[ChainRecord], ledger: dict[RowKey, dict[str, Any]] | None = None) -> list[str]:
    return [str(one) for one in breaks(records, LEDGER if ledger is None else ledger)]


def test_an_untouched_chain_holds_and_an_empty_one_says_nothing() -> None:
    assert said(chain()) == []
    assert said([]) == []
    assert [record.id for record in chain()] == [1, 2, 3, 4, 5]
    assert chain()[0].previous_sha256 == FIRST


def _at(number: int, **changes: object) -> Callable[[list[ChainRecord]], list[ChainRecord]]:
    return lambda records: [replace(one, **changes) if one.id == number else one for one in records]


def _swapped(records: list[ChainRecord]) -> list[ChainRecord]:
    two, three = records[1], records[2]
    return [records[0], replace(three, id=2), replace(two, id=3), *records[3:]]


TAMPERED: dict[str, tuple[Callable[[list[ChainRecord]], list[ChainRecord]], str]] = {
    "payload": (_at(2, payload={"row": 2, "approved_by": "Eve"}), r"record 2: its payload \(sign_off\) was changed"),
    "a float in it": (_at(2, payload={"row": 2.5}), r"record 2: its payload \(sign_off\) was changed"),
    "kind": (_at(3, kind="restore"), r"record 3: was changed"),
    "time": (_at(3, at=AT.replace(hour=13)), r"record 3: was changed"),
    "quarter": (_at(3, quarter="FY25-Q4"), r"record 3: was changed"),
    "run": (_at(3, run_id=None), r"record 3: was changed"),
    "relation": (_at(3, relation="public.u"), r"record 3: was changed"),
    "link": (_at(3, previous_sha256=FIRST), r"record 3: does not follow the record before it"),
    "own hash": (_at(2, sha256=FIRST), r"record 2: was changed"),
    "one removed": (lambda records: [*records[:2], *records[3:]], r"record 3: it is missing: record 4 comes after"),
    "two removed": (lambda records: [records[0], *records[3:]], r"record 2: records 2 to 3 are missing"),
    "the first removed": (lambda records: records[1:], r"record 1: it is missing: record 2 comes after nothing"),
    "the tail removed": (lambda records: records[:3], r"no record speaks of sign_off 3"),
    "two swapped": (_swapped, r"record 2: does not follow the record before it"),
    "no genesis": (_at(1, kind="pack"), r"record 1: the first record is pack"),
    "a genesis of nonsense": (_at(1, payload={"rows": [1, {"kind": 1}]}), r"record 1: its payload \(genesis\)"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_every_tampering_with_records_is_found_and_the_first_break_names_it(name: str) -> None:
    tamper, expected = TAMPERED[name]
    found = said(tamper(chain()))
    assert found
    assert re.match(expected, found[0]), found


@pytest.mark.parametrize(
    ("key", "says", "expected"),
    [
        (
            ("sign_off", 1),
            {"approved_by": "Eve"},
            "record 1: sign_off 1 was changed in the ledger since the chain began",
        ),
        (("archive", 7), {"sum_a": "99999999999999999998"}, "record 3: archive 7 was changed in the ledger: sum_a"),
        (("sign_off", 3), None, "record 4: speaks of sign_off 3, which the ledger does not have any more"),
        (("sign_off", 9), {"approved_by": "Eve"}, "no record speaks of sign_off 9: it was put into the ledger"),
    ],
)
def test_a_ledger_that_says_something_else_is_found(key: RowKey, says: dict[str, Any] | None, expected: str) -> None:
    ledger = {known: dict(row) for known, row in LEDGER.items()}
    if says is None:
        del ledger[key]
    else:
        ledger[key] = ledger.get(key, {}) | says
    [found] = said(chain(), ledger)
    assert found.startswith(expected)


def test_a_chain_that_was_written_anew_holds_and_does_not_contain_the_head_that_was_known() -> None:
    known = head_of(chain())
    assert known is not None
    assert missing_head(chain(), known) is None
    anew: list[ChainRecord] = []
    for one in chain():
        payload = one.payload | ({"approved_by": "Eve"} if one.id == 2 else {})
        before = anew[-1] if anew else None
        anew.append(
            sealed(before, relation=one.relation, kind=one.kind, quarter=None, payload=payload, at=AT, run_id=None)
        )
    ledger = LEDGER | {("sign_off", 2): {"approved_by": "Eve", "quarter": "FY25-Q2"}}
    assert said(anew, ledger) == []
    assert "written anew" in str(missing_head(anew, known))
    assert "its tail was removed" in str(missing_head(chain()[:4], known))
    assert "is empty" in str(missing_head([], known))


def test_what_has_no_single_text_is_never_sealed() -> None:
    with pytest.raises(ValueError, match=r"0\.5"):
        sealed(None, relation="t", kind=ChainKind.PACK, quarter=None, payload={"x": 0.5}, at=AT, run_id=None)
