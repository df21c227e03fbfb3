"""One evidence pack as one HTML file: the answer first, then signatures, weeks, plots, cutovers, and the words.

The page needs nothing from elsewhere: no font, no picture, no script.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from html.parser import HTMLParser

from migration_assets.domain.evidence_chain import EvidenceError, Head
from migration_assets.evidence.markup import Markup, count, element, instant, joined, listed, page
from migration_assets.evidence.pack import PackFacts, QuarterEvidence, Verdict, last_opened
from migration_assets.evidence.plots import plots
from migration_assets.evidence.tables import (
    archives_table,
    cutovers_section,
    departures_table,
    facts_table,
    quarters_table,
    reconciliations_table,
    signatures_table,
    standing,
    weeks_table,
)

_WORDS: tuple[tuple[str, str], ...] = (
    ("old database (legacy)", "The database that the table came from. It stays in use until the applications move."),
    ("new database (base)", "The database that the table is moved to, where it is divided into fiscal weeks."),
    ("fiscal quarter, fiscal week", (
        "A quarter of the company's year, FY25-Q2, and one of its 13 weeks, W01 to W13."
        " Twelve weeks have seven days, the last one has the rest. Each week is moved, compared and archived by itself."
    )),
    ("row", "One entry of the table, for instance one booking."),
    ("checksum, fingerprint", (
        "A number that is computed from every byte of every row of a week. Two sets of rows that"
        " differ in a single letter have different numbers; the order of the rows does not matter. Together with the"
        " count of rows it is the fingerprint. Both databases compute it by themselves, each from its own rows."
    )),
    ("compared, validated", (
        "Both databases were read at exactly the same point of the table's history, while everybody"
        " went on working, and their fingerprints were the same."
    )),
    ("marker", (
        "The number of that point. Whatever was written before it is in both databases, nothing after it is in"
        " what was compared."
    )),
    ("reconciled", "All 13 weeks of a quarter were compared at one single point, and no key was there twice."),
    ("change stream, lag", (
        "Every change in the old database is carried to the new one at once. The lag is how many"
        " seconds that takes."
    )),
    ("signed off", (
        "A named person approved a quarter. The program allows that only where every week was compared"
        " recently and was the same, and keeps exactly what was approved, with a SHA-256 over it."
    )),
    ("does not stand any more", (
        "Somebody changed rows of the quarter after it was signed, other than by the change"
        " stream. It has to be compared and signed again."
    )),
    ("mended, repair", "Rows that differed were made the same again. Each repair is kept and can be taken back."),
    ("archive", (
        "A week written to files in a common format (Parquet), read again by a second program (DuckDB), which"
        " computed the same checksum from the files as PostgreSQL from its rows."
    )),
    ("left the table, retired", (
        "After its archive was proven, a week can leave the new database's table; it is kept"
        " aside for some days first, and can be brought back."
    )),
    ("cutover, rehearsal", (
        "The moment at which the applications move to the new database: for a short while nobody can write, the last"
        " changes are brought over, both databases are compared once more, and the new one is opened. A rehearsal does"
        " all of that but the opening, and goes back."
    )),
    ("rollback", (
        "The same in the other direction. It stays possible because from the cutover on every change in the new"
        " database is carried to the old one (the stream is turned round), until the old one is decommissioned."
    )),
    ("decommissioned", (
        "The old database was closed to the applications for good, after its last fingerprint was taken. Its rows are"
        " not deleted."
    )),
    ("SHA-256", "A seal over a text: 64 characters. Nobody knows a way to change the text and keep the seal."),
    ("chain of records", (
        "Every signature, comparison, archive and departure is a record, whose seal also covers the"
        " seal of the record before it. Changing an old record breaks all that follow. The last seal is on this page:"
        " with it, even a chain that was rewritten from the beginning is found."
    )),
)  # fmt: skip


def glossary() -> Markup:
    """Return the glossary."""
    entries = [part for word, meaning in _WORDS for part in (element("dt", word), element("dd", meaning))]
    return element("section", element("h2", "Words"), element("dl", *entries), id="words")


STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --blue: #0550ae; --good: #116329; --bad: #a40e26; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: var(--ink);
       margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1240px; background: #fff; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { max-width: 75ch; margin: .4rem 0; }
.sub, figcaption, .hint { color: var(--soft); }
.answer { border-left: 8px solid; padding: .9rem 1.2rem; margin: 1.4rem 0; background: #f6f8fa; }
.answer p { font-size: 1.1rem; max-width: 80ch; }
.answer .word { font-weight: 700; font-size: 1.35rem; margin: 0; }
.good { border-color: var(--good); } .good .word { color: var(--good); }
.open { border-color: #9a6700; } .open .word { color: #9a6700; }
.bad { border-color: var(--bad); } .bad .word { color: var(--bad); }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .84rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .55rem; border-bottom: 1px solid var(--rule); }
thead th { font-weight: 600; background: #f6f8fa; border-bottom: 2px solid var(--rule); vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 2px solid var(--rule); }
.wide thead th { white-space: normal; }
.wide td:first-child { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: .78rem/1.35 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
td code { display: inline-block; min-width: 16ch; max-width: 17ch; }
.facts { width: auto; } .facts th { font-weight: 600; white-space: nowrap; } .facts code { max-width: none; }
.place { overflow-wrap: anywhere; display: inline-block; min-width: 14ch; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: .5rem 2rem; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .85rem; } .empty { color: var(--soft); }
svg { width: 100%; height: auto; } .steps { max-width: 760px; margin-top: 1.2rem; }
.grid { stroke: #e4e8ec; } .axis { stroke: var(--soft); } .limit { stroke: var(--bad); stroke-dasharray: 6 4; }
.bar, .dot { fill: var(--blue); } .line { fill: none; stroke: var(--blue); stroke-width: 1.6; }
.tick { font-size: 11.5px; fill: var(--soft); } .label { font-size: 12.5px; fill: var(--ink); }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; max-width: 80ch; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { padding: 0; max-width: none; font-size: 10.5pt; } a { color: inherit; text-decoration: none; }
  .wide { overflow: visible; } table { font-size: 7.6pt; } code { font-size: 6.8pt; }
  thead { display: table-header-group; } tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .answer, thead th { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .figures { grid-template-columns: 1fr 1fr; }
}
"""


_SHOWN = 6


class Level(StrEnum):
    """How the answer reads at a glance."""

    GOOD = "good"
    OPEN = "open"
    BAD = "bad"


@dataclass(frozen=True)
class Answer:
    """A headline, a sentence, and what it rests on or what is missing, one item a line."""

    level: Level
    word: str
    sentence: str
    details: tuple[str, ...] = ()


def answer(facts: PackFacts) -> Answer:
    """Answer whether the page's subject is proven. A broken chain comes before everything else."""
    if facts.breaks:
        return Answer(
            Level.BAD,
            "The record is broken",
            "The records behind this page were changed after they were made. Nothing on it can be relied upon until"
            " it is known what happened.",
            tuple(str(one) for one in facts.breaks[:_SHOWN]),
        )
    if facts.quarter is not None and len(facts.quarters) == 1:
        return _of_quarter(facts.quarters[0])
    return _of_all(facts)


def _of_quarter(quarter: QuarterEvidence) -> Answer:
    name, signature = quarter.quarter.key, quarter.signature
    match quarter.verdict:
        case Verdict.PROVEN if signature is not None:
            return Answer(
                Level.GOOD,
                "Proven",
                f"All {len(quarter.weeks)} weeks of {name}, {count(quarter.legacy.rows, 'row')} in total, were the same"
                f" in the old and the new database, to the last byte, when {signature.approved_by} signed on"
                f" {instant(signature.signed_at)}; nothing since then has taken that back.",
            )
        case Verdict.VOID if signature is not None:
            return Answer(
                Level.BAD,
                "No longer proven",
                f"{name} was signed by {signature.approved_by} on {instant(signature.signed_at)}, and that signature"
                " does not stand any more. It has to be proven and signed again.",
                quarter.void[:_SHOWN],
            )
        case Verdict.EMPTY:
            return Answer(
                Level.OPEN, "Nothing to prove yet", f"{name} is open in the new database and holds no rows yet."
            )
        case _:
            return Answer(
                Level.OPEN,
                "Not proven yet",
                f"Nobody has signed {name} off yet. What was compared until now is below.",
                _lacking(quarter),
            )


def _lacking(quarter: QuarterEvidence) -> tuple[str, ...]:
    never = [week.week.name for week in quarter.weeks if week.compared_at is None]
    differ = [week.week.name for week in quarter.weeks if week.compared_at is not None and not week.equal]
    lines: list[str] = []
    if never:
        lines.append(f"never compared exactly: {listed(never)}")
    if differ:
        lines.append(f"different at the last comparison: {listed(differ)}")
    if not quarter.reconciliations:
        lines.append("the quarter as a whole was never compared at one moment")
    return tuple(lines)


def _of_all(facts: PackFacts) -> Answer:
    by: dict[Verdict, list[QuarterEvidence]] = {verdict: [] for verdict in Verdict}
    for quarter in facts.quarters:
        by[quarter.verdict].append(quarter)
    held = len(facts.quarters) - len(by[Verdict.EMPTY])
    proven = by[Verdict.PROVEN]
    rows = sum(quarter.legacy.rows for quarter in proven)
    unmoved = [quarter.key for quarter in facts.unmoved]
    if held and len(proven) == held and not unmoved:
        these = "The one quarter that holds rows was" if held == 1 else f"All {held} quarters that hold rows were"
        return Answer(
            Level.GOOD,
            "Proven",
            f"{these} found the same in the old and the new database, to the last byte, and signed off by a named"
            f" person: {count(rows, 'row')} in total; no signature has been taken back since.",
            ("the old database could not be asked whether it holds quarters besides these",)
            if facts.held is None and facts.decommission is None
            else (),
        )
    details = [f"{quarter.quarter.key} is {quarter.verdict}" for quarter in [*by[Verdict.VOID], *by[Verdict.OPEN]]]
    details += [f"{name} is in the old database alone: it was not moved yet" for name in unmoved]
    if len(details) > _SHOWN:
        details = [*details[: _SHOWN - 1], f"and {len(details) - _SHOWN + 1} more, in the table below"]
    return Answer(
        Level.BAD if by[Verdict.VOID] else Level.OPEN,
        "No longer proven as a whole" if by[Verdict.VOID] else "Not proven as a whole yet",
        f"{len(proven)} of {count(held + len(unmoved), 'quarter')} that hold rows are proven and signed off"
        f" ({count(rows, 'row')}); the others are not.",
        tuple(details),
    )


_HEAD = "migration-assets-evidence-head"
# The page fetches nothing and runs nothing, whatever a value in it contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(facts: PackFacts) -> str:
    """Return the whole file; every value in it is escaped."""
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
    """Return the head of the chain that a pack carries.

    Raises:
        EvidenceError: The text is not an evidence pack.
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
        "this is not an evidence pack: it carries no head of a chain",
        where=where,
        state_left="nothing was compared",
        next_step="give the file that `migration-assets evidence write` wrote, as it wrote it",
    )


def _answer(facts: PackFacts) -> Markup:
    said = answer(facts)
    details = element("ul", *(element("li", line) for line in said.details)) if said.details else None
    word, sentence = element("p", said.word, class_="word"), element("p", said.sentence)
    # Where the record is broken, the answer repeats nothing from it.
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
