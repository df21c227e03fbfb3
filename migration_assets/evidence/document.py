"""One evidence pack as one HTML file: the answer first, then who signed, weeks, plots, cutovers, the words."""

import json
from html.parser import HTMLParser

from migration_assets.domain.evidence_chain import EvidenceError, Head
from migration_assets.domain.evidence_cutover import last_opened
from migration_assets.domain.evidence_pack import PackFacts, QuarterEvidence
from migration_assets.evidence.cutovers import cutovers_section, standing
from migration_assets.evidence.glossary import glossary
from migration_assets.evidence.markup import Markup, element, joined, page
from migration_assets.evidence.plots import plots
from migration_assets.evidence.style import STYLE
from migration_assets.evidence.tables import (
    archives_table,
    departures_table,
    facts_table,
    quarters_table,
    reconciliations_table,
    signatures_table,
    weeks_table,
)
from migration_assets.evidence.verdict import answer
from migration_assets.evidence.wording import count, instant

_HEAD = "migration-assets-evidence-head"
# Nothing is fetched, and nothing runs, whatever a value might turn out to be.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(facts: PackFacts) -> str:
    """The whole file; every value in it is escaped."""
    scope = f"fiscal quarter {facts.quarter.key}" if facts.quarter else "the whole migration"
    title = f"Evidence: move of {facts.relation}, {scope}"
    head = json.dumps({"relation": facts.head.relation, "id": facts.head.id, "sha256": facts.head.sha256})
    meta = joined(
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name=_HEAD, content=head),
    )
    return page(
        title,
        STYLE,
        meta,
        element("h1", title),
        element("p", f"Written on {instant(facts.written_at)}. All times are UTC.", class_="sub"),
        _answer(facts),
        _moved(facts),
        _section("Who signed what, and when", signatures_table(facts.quarters), "Nobody has signed anything yet."),
        *([] if facts.quarter else [_section("Quarters", quarters_table(facts), "No quarter is open yet.")]),
        element("h2", "Plots"),
        element("div", plots(facts), class_="figures"),
        *(_weeks(quarter) for quarter in facts.quarters),
        _section(
            "Quarters compared as a whole, at one moment",
            reconciliations_table(facts.quarters),
            "No quarter was compared as a whole yet.",
        ),
        _section("Archives", archives_table(facts.weeks), "No week was archived yet."),
        _section(
            "Weeks that left the table", departures_table(facts.weeks), "Every week is in the new database's table."
        ),
        cutovers_section(facts),
        _record(facts),
        glossary(),
    )


class _Finder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "meta" and named.get("name") == _HEAD and self.found is None:
            self.found = named.get("content")


def head_in(text: str, where: str) -> Head:
    """The head of the chain that a pack carries.

    Raises:
        EvidenceError: It is no evidence pack.
    """
    finder = _Finder()
    finder.feed(text)
    try:
        match json.loads(finder.found or ""):
            case {"relation": str(relation), "id": int(number), "sha256": str(sha256)}:
                return Head(relation, number, sha256)
            case _:
                pass
    except ValueError:
        pass
    raise EvidenceError(
        "this is no evidence pack: it carries no head of a chain",
        where=where,
        state_left="nothing was compared",
        next_step="give the file that `migration-assets evidence write` wrote, as it wrote it",
    )


def _answer(facts: PackFacts) -> Markup:
    said = answer(facts)
    details = element("ul", *(element("li", line) for line in said.details)) if said.details else None
    word, sentence = element("p", said.word, class_="word"), element("p", said.sentence)
    # Of a broken record nothing is repeated up here.
    where = element("p", standing(facts)) if last_opened(facts.cutovers) and not facts.breaks else None
    return element("div", word, sentence, details, where, class_=f"answer {said.level}")


def _moved(facts: PackFacts) -> Markup:
    rows = sum(quarter.base.rows for quarter in facts.quarters)
    copied = [week.copied_at for week in facts.weeks if week.copied_at]
    bounds = [
        (quarter.weeks[0].lower_bound, quarter.weeks[-1].upper_bound) for quarter in facts.quarters if quarter.weeks
    ]
    here = f"{count(len(facts.quarters), 'quarter')}, {count(len(facts.weeks), 'week')}, {count(rows, 'row')}"
    pairs: list[tuple[str, Markup | str | None]] = [
        ("table", facts.relation),
        ("fiscal weeks by", f"{facts.control_column}, midnights in {facts.time_zone}"),
        (
            "what is on this page",
            f"{here} at the last comparison",
        ),
    ]
    if bounds:
        pairs.append(("rows dated", f"from {bounds[0][0]} to before {bounds[-1][1]}"))
    if copied:
        pairs.append(("copied between", f"{instant(min(copied))} and {instant(max(copied))}"))
    pairs.append(("programs", "; ".join(f"{name} {value}" for name, value in facts.versions.items())))
    return joined(element("h2", "What was moved"), facts_table(pairs))


def _weeks(quarter: QuarterEvidence) -> Markup:
    name = quarter.quarter.key
    stands = quarter.signature is not None and not quarter.void
    said = (
        "Both checksums as they were signed: each database computed its own, from all bytes of all rows of the week,"
        " at the same point of the table's history."
        if stands
        else "Both checksums of the last comparison; nothing here was approved by a signature that stands."
    )
    return element(
        "section",
        element("h2", f"{name}, week by week"),
        element("p", said, class_="hint"),
        element("ul", *(element("li", reason) for reason in quarter.void)) if quarter.void else None,
        weeks_table(quarter),
        id=name,
    )


def _section(title: str, table: Markup | None, without: str) -> Markup:
    return joined(element("h2", title), table or element("p", without, class_="empty"))


def _record(facts: PackFacts) -> Markup:
    if facts.breaks:
        said, colour = f"Checked when this page was written, the chain is BROKEN: {facts.breaks[0]}", "no"
    else:
        said, colour = f"Checked when this page was written: all {facts.head.id} records of the chain hold.", None
    how = (
        "To check this page later: `migration-assets evidence verify --pack` with this file proves that the chain still"
        " contains the last record named here, that every record and what it speaks of is unchanged, and that this"
        " file is as it was written."
    )
    pairs = [
        ("last record", f"{facts.head.id}"),
        ("its SHA-256", element("code", facts.head.sha256)),
    ]
    return joined(
        element("h2", "The records behind this page"),
        element("p", said, class_=colour),
        facts_table(pairs),
        element("p", how, class_="hint"),
    )
