"""The gate: what is missing, what the evidence says, which hash it has, and whether a sign-off still stands."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migration_assets.domain.definitions import Definitions, TableState
from migration_assets.domain.errors import SignOffError
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.sign_off import (
    Approval,
    CutFacts,
    Missing,
    QuarterFacts,
    ReconciliationFacts,
    SignOffRefusedError,
    StreamFacts,
    Versions,
    WeekFacts,
    missing,
)
from migration_assets.domain.sign_off_evidence import SignedOff, canonical, digest, sign, verify, why_void
from migration_assets.domain.states import LastValidation, SliceState

QUARTER = FiscalQuarter(2025, 2)
WEEKS = FiscalCalendar.weeks_of(QUARTER)
NOW = datetime(2024, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
APPROVAL = Approval("Ada Lovelace", "all well, ça va", NOW, 24 * HOUR)
S = SliceState


def _week(week: FiscalWeek) -> WeekFacts:
    print_ = Fingerprint(100 + week.number, -(2**70) + week.number, 2**71)
    return WeekFacts(
        week=week,
        leaf=f"bookings_{week.name.lower()}",
        lower_bound=f"bound {week.number}",
        upper_bound=f"bound {week.number + 1}",
        state=S.VALIDATED,
        method="image-v2",
        legacy=print_,
        base=print_,
        marker=40 + week.number,
        lsn=f"0/{week.number:X}",
        validation=LastValidation(NOW - 3 * HOUR, equal=True, changed_at=NOW - 9 * HOUR, stream_changes=7),
        definitions=Definitions(
            TableState(1, 2, 3, "d"), TableState(4, None, None, "d"), TableState(100 + week.number, 6, None, "d")
        ),
    )


RECONCILED = ReconciliationFacts(60, "0/FF", equal=True, duplicate_keys=0, at=NOW - HOUR, cut_at=NOW - 2 * HOUR)
STREAM = StreamFacts("p", "s", "u", "live", None, 3, "0/1", NOW - 9 * HOUR)
CUTS = (CutFacts(60, "0/FF", NOW - 2 * HOUR, 2, 7.25, 99.9996, None), CutFacts(41, "0/1", NOW, 1, 0.1, 1e-7, 3.0))
GOOD = QuarterFacts(
    "public.bookings", QUARTER, tuple(map(_week, WEEKS)), RECONCILED, STREAM, (), CUTS,
    Versions("0.1.0", "16.14", "18.4", "image-v2"),
)  # fmt: skip


def _with(number: int, **changes: Any) -> QuarterFacts:
    """The good facts with one week changed; `validation` may be a dict of changes itself."""
    weeks = list(GOOD.weeks)
    week = weeks[number - 1]
    if isinstance(changes.get("validation"), dict):
        changes["validation"] = replace(week.validation, **changes["validation"])
    weeks[number - 1] = replace(week, **changes)
    return replace(GOOD, weeks=tuple(weeks))


def _one(facts: QuarterFacts, approval: Approval = APPROVAL) -> Missing:
    [only] = missing(facts, approval)
    return only


def test_when_all_is_well_nothing_is_missing() -> None:
    assert missing(GOOD, APPROVAL) == []
    evidence, sha256 = sign(GOOD, APPROVAL)
    assert verify(evidence, sha256)


def test_a_reconciliation_of_tables_that_were_altered_since_is_stale() -> None:
    altered = replace(RECONCILED, altered="W05: the base's table was altered")
    found = _one(replace(GOOD, reconciliation=altered))
    assert "is stale: W05: the base's table was altered since 2024-07-01 10:00 UTC" in str(found)
    assert "reconciled_quarter" in str(found)


@pytest.mark.parametrize("state", [S.SIGNED_OFF, S.ARCHIVED])
def test_weeks_that_are_signed_or_archived_already_may_be_signed_again(state: S) -> None:
    assert missing(replace(GOOD, weeks=tuple(replace(w, state=state) for w in GOOD.weeks)), APPROVAL) == []


@pytest.mark.parametrize("number", range(1, 14))
@pytest.mark.parametrize(
    ("changes", "what", "step"),
    [
        ({"state": S.ABSENT}, "was never copied", "migrated_slice"),
        ({"state": S.COPIED}, "copied, but not under CDC", "change_stream"),
        ({"state": S.STREAMING}, "is streaming, not validated", "validated_slice"),
        ({"state": S.RETIRED}, "is already retired", "restore it"),
        ({"validation": {"at": None}}, "never validated", "validated_slice"),
        ({"validation": {"equal": False}}, "validation FAILED", "repair_slices"),
        ({"validation": {"equal": None}}, "validation FAILED", "repair_slices"),
        ({"validation": {"altered": "the leaf was rewritten"}}, "stale: the leaf was rewritten", "validated_slice"),
        ({"validation": {"at": NOW - 25 * HOUR, "changed_at": NOW - 26 * HOUR}}, "older than 24 h", "validated_slice"),
        ({"lsn": None}, "no fingerprints or position", "validated_slice"),
        ({"legacy": None}, "no fingerprints or position", "validated_slice"),
        ({"base": None}, "no fingerprints or position", "validated_slice"),
        ({"method": None}, "no fingerprints or position", "validated_slice"),
        ({"base": Fingerprint(1, 2, 3)}, "fingerprints differ", "validated_slice"),
    ],
)
def test_each_week_must_be_proven_and_the_one_that_is_not_is_named(
    number: int, changes: dict[str, Any], what: str, step: str
) -> None:
    found = _one(_with(number, **changes))
    assert found.where == WEEKS[number - 1].key
    assert what in found.what
    assert step in found.next_step


def test_a_week_changed_after_its_validation_and_the_reconciliation_stops_both() -> None:
    found = missing(_with(5, validation={"changed_at": NOW - HOUR / 2}), APPROVAL)
    assert [(one.where, "W05" in str(one)) for one in found] == [
        ("FY25-Q2|W05", True),
        ("FY25-Q2 reconciliation", True),
    ]
    assert "changed by us since then" in found[0].what


def test_an_activation_has_no_marker_and_needs_none() -> None:
    assert missing(_with(3, marker=None), APPROVAL) == []


@pytest.mark.parametrize("number", range(1, 14))
def test_a_week_that_the_ledger_lacks_is_missing(number: int) -> None:
    weeks = tuple(week for week in GOOD.weeks if week.week.number != number)
    assert _one(replace(GOOD, weeks=weeks)).where == WEEKS[number - 1].key


def test_a_quarter_that_was_never_opened_is_said_once() -> None:
    assert _one(replace(GOOD, weeks=())) == Missing("was never opened", "FY25-Q2", "materialize quarter_partitions")


@pytest.mark.parametrize("number", range(2, 14))
def test_the_weeks_must_cover_the_quarter_without_a_gap(number: int) -> None:
    found = missing(_with(number, lower_bound="elsewhere"), APPROVAL)
    assert [one.where for one in found] == [WEEKS[number - 1].key]
    assert "begins at elsewhere" in found[0].what


def test_facts_of_another_quarter_or_twice_the_same_week_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="distinct weeks of FY25-Q2"):
        replace(GOOD, weeks=(*GOOD.weeks, GOOD.weeks[0]))
    with pytest.raises(ValueError, match="distinct weeks of FY25-Q2"):
        replace(GOOD, weeks=(replace(GOOD.weeks[0], week=FiscalWeek(QUARTER.next, 1)),))


@pytest.mark.parametrize(
    ("reconciliation", "what"),
    [
        (None, "never reconciled"),
        (replace(RECONCILED, equal=False), "marker 60) found differences"),
        (replace(RECONCILED, duplicate_keys=1), "1 key in more than one week"),
        (replace(RECONCILED, duplicate_keys=1234), "1,234 keys in more than one week"),
        (replace(RECONCILED, at=NOW - 30 * HOUR), "older than 24 h"),
        (replace(RECONCILED, cut_at=NOW - 30 * HOUR), "older than 24 h"),
        (replace(RECONCILED, at=NOW + 30 * HOUR, cut_at=None), "older than 24 h"),
    ],
)
def test_the_newest_reconciliation_must_be_there_equal_without_duplicates_and_recent(
    reconciliation: ReconciliationFacts | None, what: str
) -> None:
    weeks = tuple(replace(week, validation=replace(week.validation, changed_at=NOW - 99 * HOUR)) for week in GOOD.weeks)
    found = _one(replace(GOOD, weeks=weeks, reconciliation=reconciliation))
    assert found.where == "FY25-Q2 reconciliation"
    assert what in found.what
    assert "reconciled_quarter" in found.next_step


@pytest.mark.parametrize(("later", "refused"), [(-1, False), (0, True), (1, True)])
@pytest.mark.parametrize("number", range(1, 14))
def test_the_reconciliations_cut_must_be_later_than_every_weeks_change(number: int, later: int, refused: bool) -> None:
    changed_at = RECONCILED.proven_at + later * timedelta(microseconds=1)
    found = missing(_with(number, validation={"changed_at": changed_at, "at": NOW - HOUR}), APPROVAL)
    assert [one.where for one in found] == ["FY25-Q2 reconciliation"] * refused
    assert all(WEEKS[number - 1].name in one.what for one in found)


@pytest.mark.parametrize(
    ("stream", "problems", "said"),
    [
        (None, (), ["there is none"]),
        (replace(STREAM, status="paused", reason="a join"), (), ["is paused (a join)"]),
        (replace(STREAM, status="held"), (), ["is held"]),
        (replace(STREAM, status="activating"), ("the slot is lost",), ["is activating", "the slot is lost"]),
        (replace(STREAM, exact_since_lsn=None), (), ["the ledger does not say since when it is exact"]),
        (STREAM, ("no worker", "the slot is lost"), ["no worker", "the slot is lost"]),
    ],
)
def test_the_stream_must_be_live_exact_and_healthy(
    stream: StreamFacts | None, problems: tuple[str, ...], said: list[str]
) -> None:
    found = missing(replace(GOOD, stream=stream, problems=problems), APPROVAL)
    assert [one.what for one in found] == said
    assert {one.where for one in found} == {"change stream"}


@pytest.mark.parametrize("name", ["", " ", "\t\n", "\u00a0", "\u200b", "\u2003 \ufeff"])
def test_a_name_that_nobody_can_read_is_no_name(name: str) -> None:
    assert _one(GOOD, replace(APPROVAL, approved_by=name)) == Missing(
        "nobody is named", "approved_by", "name the person who approves"
    )


@pytest.mark.parametrize("field", ["approved_by", "note"])
@pytest.mark.parametrize("text", ["a\x00b", "a\ud800"])
def test_text_that_the_ledger_cannot_hold_is_refused_before_it_gets_there(field: str, text: str) -> None:
    assert _one(GOOD, replace(APPROVAL, **{field: text})).where == field


def test_the_refusal_lists_every_single_thing_on_a_line_of_its_own() -> None:
    facts = replace(
        _with(3, state=S.COPIED), reconciliation=None, stream=replace(STREAM, status="held"), problems=("no worker",)
    )
    with pytest.raises(SignOffError) as caught:
        sign(facts, replace(APPROVAL, approved_by=" "))
    assert isinstance(caught.value, SignOffRefusedError)
    assert len(caught.value.missing) == 5
    lines = [line for line in str(caught.value).splitlines() if line.startswith("- ")]
    assert lines == [f"- {one}" for one in caught.value.missing]
    assert "FY25-Q2: cannot be signed off, 5 things are missing:" in str(caught.value)
    assert "nothing was signed" in caught.value.state_left


_SPOILT: list[Callable[[QuarterFacts], QuarterFacts]] = [
    *(
        lambda facts, n=n: replace(
            facts, weeks=tuple(replace(w, state=S.COPIED) if w.week.number == n else w for w in facts.weeks)
        )
        for n in range(1, 14)
    ),
    lambda facts: replace(facts, reconciliation=None),
    lambda facts: replace(facts, stream=None),
    lambda facts: replace(facts, problems=("down",)),
]


@given(st.sets(st.integers(0, len(_SPOILT) - 1)))
def test_whatever_is_wrong_together_is_listed_together_and_signed_only_when_nothing_is(wrong: set[int]) -> None:
    facts = GOOD
    for number in wrong:
        facts = _SPOILT[number](facts)
    assert len(missing(facts, APPROVAL)) == len(wrong)
    if wrong:
        with pytest.raises(SignOffRefusedError):
            sign(facts, APPROVAL)


def test_the_evidence_says_what_was_proven_by_what_and_who_approved_it() -> None:
    evidence, _ = sign(GOOD, APPROVAL)
    assert (evidence["relation"], evidence["quarter"]) == ("public.bookings", "FY25-Q2")
    assert (evidence["lower_bound"], evidence["upper_bound"]) == ("bound 1", "bound 14")
    assert evidence["legacy"] == evidence["base"]
    assert evidence["legacy"]["rows"] == sum(100 + number for number in range(1, 14))
    assert evidence["legacy"]["sum_b"] == str(13 * 2**71)
    assert [week["week"] for week in evidence["weeks"]] == [week.key for week in WEEKS]
    assert evidence["weeks"][4] == {
        "week": "FY25-Q2|W05",
        "leaf": "bookings_w05",
        "lower_bound": "bound 5",
        "upper_bound": "bound 6",
        "state": "validated",
        "changed_at": "2024-07-01T03:00:00.000000Z",
        "validated_at": "2024-07-01T09:00:00.000000Z",
        "marker": 45,
        "lsn": "0/5",
        "fingerprint": "image-v2",
        "legacy": {"rows": 105, "sum_a": str(-(2**70) + 5), "sum_b": str(2**71)},
        "base": {"rows": 105, "sum_a": str(-(2**70) + 5), "sum_b": str(2**71)},
        "stream_changes_since": 7,
        "definitions": {
            "legacy": {"oid": 1, "filenode": 2, "toast": 3, "digest": "d"},
            "root": {"oid": 4, "filenode": None, "toast": None, "digest": "d"},
            "leaf": {"oid": 105, "filenode": 6, "toast": None, "digest": "d"},
        },
    }
    assert evidence["reconciliation"]["marker"] == 60
    assert evidence["stream"]["exact_since_lsn"] == "0/1"
    assert [(c["marker"], c["writers_held_us"], c["longest_try_us"], c["apply_held_us"]) for c in evidence["cuts"]] == [
        (41, 100, 0, 3000),
        (60, 7250, 100_000, None),
    ]
    assert evidence["versions"] == {
        "migration_assets": "0.1.0", "postgresql_legacy": "16.14", "postgresql_base": "18.4",
        "fingerprint": "image-v2",
    }  # fmt: skip
    assert (evidence["approved_by"], evidence["note"]) == ("Ada Lovelace", "all well, ça va")
    assert evidence["signed_at"] == "2024-07-01T12:00:00.000000Z"


def test_the_same_facts_in_any_order_have_one_evidence_and_one_hash() -> None:
    turned = replace(GOOD, weeks=GOOD.weeks[::-1], cuts=GOOD.cuts[::-1])
    assert sign(turned, APPROVAL) == sign(GOOD, APPROVAL)
    # Pinned: a change of the format would make every older sign-off void.
    assert sign(GOOD, APPROVAL)[1] == "dd489c613ce0b47cc3ead493c463e8e3fd855322de4fa60ca423618584e887e1"


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
        for key, inner in items:
            yield from _paths(inner, (*path, key))
    else:
        yield path


def test_any_value_of_the_evidence_that_is_edited_or_removed_breaks_the_hash() -> None:
    evidence, sha256 = sign(GOOD, APPROVAL)
    paths = list(_paths(evidence))
    assert len(paths) > 13 * 15
    for path in paths:
        for remove in (False, True):
            copy = json.loads(json.dumps(evidence))
            inside = copy
            for key in path[:-1]:
                inside = inside[key]
            if remove:
                del inside[path[-1]]
            else:
                inside[path[-1]] = f"{inside[path[-1]]}!"
            assert not verify(copy, sha256), path


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.long
@given(_json)
def test_canonical_text_survives_any_way_of_writing_the_same_json(value: Any) -> None:
    assert digest(json.loads(json.dumps(value, indent=2))) == digest(value)
    assert json.loads(canonical(value)) == value


@given(_json, _json)
def test_different_values_have_different_texts(one: Any, other: Any) -> None:
    # True == 1 in Python, but not in JSON.
    assert (canonical(one) == canonical(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


@pytest.mark.parametrize("value", [1.0, float("nan"), {"a": [0.1]}, {1: 2}, (1,), NOW, object(), "\ud800"])
def test_what_has_no_single_text_is_no_evidence(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        digest(value)
    assert not verify(value, "0" * 64)


def _signed() -> SignedOff:
    evidence, sha256 = sign(GOOD, APPROVAL)
    return SignedOff(
        1, GOOD.relation, QUARTER, APPROVAL.approved_by, APPROVAL.note, evidence, sha256, "run", APPROVAL.at
    )


_AFTER = tuple(replace(week, state=S.SIGNED_OFF) for week in GOOD.weeks)


@pytest.mark.parametrize("state", list(SliceState))
def test_a_sign_off_stands_while_every_week_is_signed_off_or_further(state: SliceState) -> None:
    weeks = (*_AFTER[:4], replace(_AFTER[4], state=state), *_AFTER[5:])
    stands = state in {S.SIGNED_OFF, S.ARCHIVED, S.RETIRED}
    assert why_void(_signed(), weeks) == ([] if stands else [f"FY25-Q2|W05: is {state} again"])


def test_a_change_after_the_sign_off_makes_it_void_even_where_the_state_was_left_alone() -> None:
    changed = replace(_AFTER[4].validation, changed_at=NOW + HOUR)
    for state, said in ((S.STREAMING, "is streaming again, changed at"), (S.SIGNED_OFF, "still signed_off, changed")):
        weeks = (*_AFTER[:4], replace(_AFTER[4], state=state, validation=changed), *_AFTER[5:])
        [reason] = why_void(_signed(), weeks)
        assert said in reason


def test_a_validation_that_grows_old_does_not_end_a_sign_off() -> None:
    old = tuple(replace(w, validation=LastValidation(NOW - 9999 * HOUR, equal=True, changed_at=None)) for w in _AFTER)
    assert why_void(_signed(), old) == []


def test_a_week_that_left_the_ledger_makes_it_void() -> None:
    assert why_void(_signed(), _AFTER[:-1]) == ["FY25-Q2|W13: the ledger no longer has this week"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"approved_by": "Somebody Else"}, "approved_by"),
        ({"note": ""}, "note"),
        ({"signed_at": NOW + HOUR}, "signed_at"),
        ({"relation": "public.other"}, "relation"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"evidence": {**sign(GOOD, APPROVAL)[0], "rows": 1}}, "SHA-256"),
    ],
)
def test_an_edit_of_the_evidence_or_of_what_stands_beside_it_makes_it_void(edit: dict[str, Any], said: str) -> None:
    [reason] = why_void(replace(_signed(), **edit), _AFTER)
    assert said in reason
