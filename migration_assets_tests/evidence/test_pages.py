"""A pack as a stranger reads it: one sentence that is true, everything escaped, nothing fetched, plots of any size."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from migration_assets.domain.evidence_chain import Break, EvidenceError, Head
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter
from migration_assets.evidence.document import Level, answer, document, head_in
from migration_assets.evidence.pack import (
    ArchiveFacts,
    DepartureFacts,
    HoldCosts,
    PackFacts,
    QuarterEvidence,
    Reading,
    ReconciliationRecord,
    SignatureFacts,
    WeekEvidence,
)

AT = datetime(2024, 6, 24, 12, tzinfo=UTC)
Q2 = FiscalQuarter(2025, 2)
EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x>&amp;"
TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "h3",
    "p",
    "div",
    "section",
    "figure",
    "figcaption",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "a",
    "span",
    "code",
    "strong",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
    "svg",
    "rect",
    "circle",
    "polyline",
    "line",
    "text",
}


def week_evidence(quarter: FiscalQuarter, number: int, **changes: object) -> WeekEvidence:
    same = Fingerprint(1000 + number, 10**20 + number, -(10**19))
    week = FiscalCalendar.weeks_of(quarter)[number - 1]
    made = WeekEvidence(
        week, "2024-04-01 00:00:00+00", "2024-04-08 00:00:00+00", "signed_off", same, same, AT, 40 + number, AT, 2.0,
        10_000_000 * number, 3,
        archive=ArchiveFacts("s3://bucket/a", same.rows, "ab" * 16, 2, 123456, "cd" * 32, AT, AT, verified_equal=True),
        departure=DepartureFacts("dropped", AT),
    )  # fmt: skip
    return replace(made, **changes)


def quarter_evidence(quarter: FiscalQuarter = Q2, **changes: Any) -> QuarterEvidence:
    signature = SignatureFacts(
        7,
        "Ada Lovelace",
        "after a week",
        AT + timedelta(hours=3),
        "ef" * 32,
        timedelta(hours=24),
        {"fingerprint": "v1"},
    )
    made = QuarterEvidence(
        quarter,
        tuple(week_evidence(quarter, number) for number in range(1, 14)),
        (signature,),
        (),
        (ReconciliationRecord(41, equal=True, duplicate_keys=0, at=AT),),
    )
    return replace(made, **changes)


def pack(quarter: FiscalQuarter | None = Q2, **changes: object) -> PackFacts:
    made = PackFacts(
        "public.amenity_bookings", "booked_at", "UTC", quarter, AT + timedelta(days=1), {"ledger": "5"},
        (quarter_evidence(),), (Q2,),
        tuple(Reading(AT + timedelta(minutes=n), None if n == 5 else n / 10) for n in range(20)),
        tuple(Reading(AT + timedelta(hours=n), 5.0 + n) for n in range(3)),
        HoldCosts(3, 6.0, 7.0, 7.0), Head("public.amenity_bookings", 9, "12" * 32), (),
    )  # fmt: skip
    return replace(made, **changes)


class Strict(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update((name, value or "") for name, value in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_every_value_is_escaped_and_nothing_is_fetched() -> None:
    evil = quarter_evidence(
        signatures=(replace(quarter_evidence().signatures[0], approved_by=EVIL, note=EVIL, versions={EVIL: EVIL}),),
        weeks=(week_evidence(Q2, 1, state=EVIL, lower_bound=EVIL, departure=DepartureFacts(EVIL, AT)),
               week_evidence(Q2, 2, archive=replace(week_evidence(Q2, 2).archive or never(), location=EVIL))),
    )  # fmt: skip
    text = document(pack(relation=EVIL, control_column=EVIL, time_zone=EVIL, versions={EVIL: EVIL}, quarters=(evil,)))
    seen = Strict(text)
    assert seen.tags <= TAGS
    assert "".join(seen.texts).count(EVIL) >= 9
    assert all(value.startswith("#") for name, value in seen.attributes if name == "href")
    assert not {name for name, _ in seen.attributes} & {"src", "srcset", "style", "onload", "onerror", "action"}
    assert "url(" not in text
    assert "@import" not in text


def never() -> ArchiveFacts:
    raise AssertionError


def test_a_page_is_one_whole_document_with_four_labelled_plots() -> None:
    text = document(pack())
    assert Strict(text).tags <= TAGS
    plots = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        labels = [one.text for one in ET.fromstring(plot).iter("text") if one.get("class") == "label"]  # noqa: S314 - ours
        assert len(labels) == 2
        assert all(labels)
    for said in ("All 13 weeks of FY25-Q2, 13,091 rows", "Ada Lovelace", "2024-06-24 15:00:00 UTC", "12" * 32):
        assert said in text
    assert text.count(week_evidence(Q2, 5).legacy.checksum) == 2  # pyright: ignore[reportOptionalMemberAccess]


def _broken(facts: PackFacts) -> PackFacts:
    return replace(facts, breaks=(Break(3, "its payload was changed"),))


def _held(*quarters: FiscalQuarter) -> Callable[[PackFacts], PackFacts]:
    return lambda facts: replace(facts, held=quarters)


def _not_asked(facts: PackFacts) -> PackFacts:
    return replace(facts, held=None)


def _bare(facts: PackFacts) -> PackFacts:
    return replace(facts, quarters=(), held=())


def _of(**changes: Any) -> Callable[[PackFacts], PackFacts]:
    return lambda facts: replace(facts, quarters=(quarter_evidence(**changes),))


ABSENT = tuple(week_evidence(Q2, n, legacy=None, base=None, compared_at=None) for n in range(1, 14))
OPEN = (week_evidence(Q2, 1), week_evidence(Q2, 2, base=Fingerprint(1, 1, 1)), *ABSENT[2:])


@pytest.mark.parametrize(
    ("scope", "change", "level", "said"),
    [
        (Q2, _of(), Level.GOOD, "All 13 weeks of FY25-Q2"),
        (Q2, _broken, Level.BAD, "record 3: its payload was changed"),
        (Q2, _of(void=("W05: is streaming again",)), Level.BAD, "W05: is streaming again"),
        (Q2, _of(signatures=(), weeks=OPEN), Level.OPEN, "different at the last comparison: W02"),
        (Q2, _of(signatures=(), weeks=ABSENT), Level.OPEN, "holds no rows yet"),
        (None, _of(), Level.GOOD, "The one quarter that holds rows"),
        (None, _broken, Level.BAD, "record 3: its payload was changed"),
        (None, _of(void=("x",)), Level.BAD, "FY25-Q2 is no longer proven"),
        (None, _of(signatures=()), Level.OPEN, "FY25-Q2 is not signed off"),
        (None, _held(Q2, Q2.next), Level.OPEN, "FY25-Q3 is in the old database alone"),
        (None, _not_asked, Level.GOOD, "could not be asked"),
        (None, _bare, Level.OPEN, "0 of 0 quarters"),
    ],
)  # fmt: skip
def test_the_sentence_on_top_says_no_more_than_is_proven(
    scope: FiscalQuarter | None, change: Callable[[PackFacts], PackFacts], level: Level, said: str
) -> None:
    facts = change(pack(scope))
    given = answer(facts)
    assert given.level is level
    assert said in " ".join((given.sentence, *given.details))
    assert Strict(document(facts)).tags <= TAGS


def test_forty_quarters_fit_and_a_page_without_anything_says_so() -> None:
    quarters = tuple(quarter_evidence(FiscalQuarter.from_ordinal(Q2.ordinal - 40 + n)) for n in range(40))
    whole = document(pack(None, quarters=quarters, held=tuple(one.quarter for one in quarters)))
    assert "All 40 quarters that hold rows" in whole
    assert len(re.findall("<rect", whole)) == 2 * 40 * 13
    bare = quarter_evidence(weeks=ABSENT, signatures=(), reconciliations=())
    never_there = tuple(replace(one, copy_seconds=None, archive=None, departure=None) for one in ABSENT)
    empty = pack(quarters=(replace(bare, weeks=never_there),), lags=(), holds=(), costs=None)
    text = document(empty)
    assert "<svg" not in text
    assert "Nobody has signed anything yet." in text
    alone = pack(lags=(Reading(AT, 0.0),), holds=(Reading(AT, 3.0),))
    assert document(alone).count("<svg") == 4


def test_the_head_comes_back_out_of_the_page() -> None:
    odd = Head('pub"lic.<t> & ü', 12, "ab" * 32)
    assert head_in(document(pack(head=odd, relation=EVIL)), "x") == odd
    for text in ("", '<meta name="migration-assets-evidence-head" content="{}">', "<p>"):
        with pytest.raises(EvidenceError):
            head_in(text, "x")
