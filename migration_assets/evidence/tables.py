"""The tables of a pack: quarters, weeks, signatures, comparisons, archives, departures, cutovers."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.states import CutoverKind, CutoverState, SideName
from migration_assets.evidence.markup import (
    NOTHING,
    Child,
    Markup,
    count,
    element,
    instant,
    joined,
    milliseconds,
    named,
    size,
    span,
    state,
)
from migration_assets.evidence.pack import (
    CutoverFacts,
    DecommissionFacts,
    PackFacts,
    QuarterEvidence,
    StepTimes,
    Verdict,
    WeekEvidence,
    in_charge,
    last_opened,
)
from migration_assets.evidence.plots import Span, spans

_COLOURS = {Verdict.PROVEN: "yes", Verdict.OPEN: "no", Verdict.VOID: "no", Verdict.EMPTY: None}
_STEPS = {
    "detaching": "is leaving the table",
    "quarantined": "out of the table, still kept in the database",
    "dropped": "only in the archive",
    "returned": "back in the table",
}


def quarters_table(facts: PackFacts) -> Markup:
    """Write one line a quarter."""
    rows = [
        [
            element("a", quarter.quarter.key, href=f"#{quarter.quarter.key}"),
            number(quarter.legacy.rows),
            *_sides(quarter.legacy, quarter.base),
            quarter.signature.approved_by if quarter.signature else NOTHING,
            instant(quarter.signature.signed_at if quarter.signature else None),
            element("span", str(quarter.verdict), class_=_COLOURS[quarter.verdict]),
            number(sum(week.archive is not None for week in quarter.weeks)),
        ]
        for quarter in facts.quarters
    ]
    names = ["quarter", "rows", "checksum in the old database", "checksum in the new database", "same?",
             "signed by", "signed at", "now", "weeks archived"]  # fmt: skip
    return table_of(names, rows)


def weeks_table(quarter: QuarterEvidence) -> Markup:
    """Write one line a week, and their sum."""
    rows: list[list[Child]] = [_week(week) for week in quarter.weeks]
    rows.append(
        [element("strong", "all"), "", number(quarter.legacy.rows), number(quarter.base.rows),
         *_sides(quarter.legacy, quarter.base), "", "", ""]
    )  # fmt: skip
    names = ["week", "rows from … to before …", "rows, old database", "rows, new database", "checksum, old database",
             "checksum, new database", "same?", "compared at", "comparisons", "state now"]  # fmt: skip
    return table_of(names, rows)


def _week(week: WeekEvidence) -> list[Child]:
    checks = count(week.comparisons, "time") if week.comparisons else NOTHING
    if week.differing:
        checks += f", {week.differing} found differences"
    if week.repairs:
        checks += f", mended {count(week.repairs, 'time')}"
    return [
        week.week.name,
        f"{_day(week.lower_bound)} to {_day(week.upper_bound)}",
        number(week.legacy.rows) if week.legacy else NOTHING,
        number(week.base.rows) if week.base else NOTHING,
        *_sides(week.legacy, week.base),
        instant(week.compared_at),
        checks,
        state(week.state),
    ]


def signatures_table(quarters: Iterable[QuarterEvidence]) -> Markup | None:
    """Write every signature that was ever given, the newest first within its quarter."""
    rows: list[list[Child]] = []
    for quarter in quarters:
        for signature in reversed(quarter.signatures):
            newest = signature is quarter.signature
            stands = (
                "stands"
                if newest and not quarter.void
                else "does not stand any more"
                if newest
                else "replaced by a later one"
            )
            rows.append([
                quarter.quarter.key,
                named(signature.approved_by, signature.done_by),
                instant(signature.signed_at),
                signature.note or NOTHING,
                element("span", stands, class_="yes" if stands == "stands" else "no"),
                span(signature.max_age) if signature.max_age else NOTHING,
                "; ".join(f"{_tool(name)} {value}" for name, value in signature.versions.items()) or NOTHING,
                _code(signature.sha256),
            ])  # fmt: skip
    names = ["quarter", "signed by", "signed at", "note", "now", "oldest comparison allowed", "versions at that time",
             "SHA-256 of what was signed"]  # fmt: skip
    return table_of(names, rows) if rows else None


def reconciliations_table(quarters: Iterable[QuarterEvidence]) -> Markup | None:
    """Write every comparison of a whole quarter at one moment."""
    rows: list[list[Child]] = [
        [
            quarter.quarter.key,
            instant(one.at),
            element("span", "all 13 weeks the same" if one.equal else "different", class_="yes" if one.equal else "no"),
            number(one.duplicate_keys),
            number(one.marker),
        ]
        for quarter in quarters
        for one in quarter.reconciliations
    ]
    return table_of(["quarter", "compared at", "result", "keys there twice", "marker"], rows) if rows else None


def archives_table(weeks: Iterable[WeekEvidence]) -> Markup | None:
    """Write the weeks that are archived as files."""
    rows: list[list[Child]] = []
    for week in weeks:
        if (archive := week.archive) is None:
            continue
        found = "as it was written" if archive.verified_equal else "NOT as it was written"
        read = f"{instant(archive.verified_at)}: {found}"
        rows.append([
            week.week.key,
            number(archive.rows),
            f"{size(archive.bytes)} in {count(archive.files, 'file')}",
            _code(archive.checksum),
            instant(archive.archived_at),
            element("span", read, class_="yes" if archive.verified_equal else "no"),
            element("span", archive.location, class_="place"),
            _code(archive.manifest_sha256),
        ])  # fmt: skip
    names = ["week", "rows", "size", "checksum, by two programs", "archived at", "last read again", "where",
             "SHA-256 of its list of files"]  # fmt: skip
    return table_of(names, rows) if rows else None


def departures_table(weeks: Iterable[WeekEvidence]) -> Markup | None:
    """Write the weeks that left the new database's table."""
    rows: list[list[Child]] = [
        [week.week.key, _STEPS.get(week.departure.step, week.departure.step), instant(week.departure.at)]
        for week in weeks
        if week.departure
    ]
    return table_of(["week", "where its rows are", "since"], rows) if rows else None


def facts_table(pairs: Sequence[tuple[str, Child]]) -> Markup:
    """Write names on the left and values on the right."""
    rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in pairs]
    return element("table", element("tbody", *rows), class_="facts")


def table_of(names: Sequence[str], rows: Iterable[Sequence[Child]]) -> Markup:
    """Write column names and rows; a column whose first cell is a `number` is aligned as numbers are."""
    written = list(rows)
    numbers = {place for place, cell in enumerate(written[0]) if _is_cell(cell)} if written else set[int]()
    head = element("tr", *(
        element("th", name, scope="col", class_="number" if place in numbers else None)
        for place, name in enumerate(names)
    ))  # fmt: skip
    body = [element("tr", *(cell if _is_cell(cell) else element("td", cell) for cell in row)) for row in written]
    table = element("table", element("thead", head), element("tbody", *body))
    return element("div", table, class_="wide")


def _is_cell(cell: Child) -> bool:
    return isinstance(cell, Markup) and cell.startswith("<td")


def number(figure: int | str) -> Markup:
    """Return a cell of a column of numbers."""
    return element("td", figure if isinstance(figure, str) else f"{figure:,}", class_="number")


def _sides(legacy: Fingerprint | None, base: Fingerprint | None) -> tuple[Markup, Markup, Markup]:
    if legacy is None or base is None:
        return element("span", NOTHING), element("span", NOTHING), element("span", "not compared", class_="no")
    same = legacy == base
    return (
        _code(legacy.checksum),
        _code(base.checksum),
        element("span", "same" if same else "DIFFERENT", class_="yes" if same else "no"),
    )


def _code(text: str) -> Markup:
    return element("code", text)


def _day(bound: str) -> str:
    """Return a bound as the base writes it, without a midnight in UTC, which carries no information."""
    return bound.removesuffix("+00").removesuffix(" 00:00:00")


def _tool(name: str) -> str:
    return {
        "postgresql_legacy": "old database: PostgreSQL",
        "postgresql_base": "new database: PostgreSQL",
        "fingerprint": "checksum method",
    }.get(name, name)


_DATABASE: dict[SideName, str] = {"legacy": "old database", "base": "new database"}
_TIMELINE_STEPS = {
    CutoverState.BEGUN: "prepare",
    CutoverState.WAITING: "wait for a small lag",
    CutoverState.HELD: "stop all writing",
    CutoverState.DRAINED: "bring the last changes over",
    CutoverState.COMPARED: "compare both databases",
    CutoverState.SEQUENCES: "set the next keys",
    CutoverState.REVERSED: "turn the stream round",
    CutoverState.OPEN: "open for writing",
    CutoverState.SWITCHED: "tell the applications",
    CutoverState.DONE: "put away what is over",
    CutoverState.UNDOING: "let writing go on",
    CutoverState.UNDONE: "undone",
}
_LONGEST_ERROR = 400


def standing(facts: PackFacts) -> str:
    """Say where the applications work, since when, and who approved it."""
    opened = last_opened(facts.cutovers)
    if opened is None:
        return "The applications work on the old database: they were not moved yet."
    side, cost = _DATABASE[in_charge(facts.cutovers)], _downtime(opened)
    again = " again" if opened.kind is CutoverKind.ROLLBACK else ""
    said = (
        f"The applications have worked on the {side}{again} since {instant(opened.opened_at)}; {opened.approved_by}"
        f" approved the {opened.kind}"
        + (f", during which nobody could write to the table for {cost}." if cost else ".")
    )
    if opened.outcome == "running":
        said += f" That {opened.kind} was not finished when this page was written."
    return " ".join((said, *([_closed(facts.decommission)] if facts.decommission else [])))


def _closed(one: DecommissionFacts) -> str:
    what = "The old database" if one.scope == "database" else "The table in the old database"
    if one.finished_at is None:
        return f"{what} is being closed for good since {instant(one.started_at)}; that was not finished."
    final = f" Its last fingerprint: {one.final}." if one.final else ""
    return f"{what} was decommissioned on {instant(one.finished_at)}, approved by {one.approved_by}.{final}"


def cutovers_section(facts: PackFacts) -> Markup:
    """Write the sentence of `standing` on every page, and all details on the page of the whole migration."""
    parts: list[Child] = [element("h2", "Cutover, rollback, decommission"), element("p", standing(facts))]
    if facts.quarter is not None:
        if facts.cutovers:
            parts.append(element("p", "The page of the whole migration has every cutover and rollback.", class_="hint"))
    elif facts.cutovers:
        parts += [_table(facts.cutovers), _figure(facts.cutovers)]
    if facts.quarter is None and facts.decommission:
        parts += [element("h3", "The end of the old database"), _decommission(facts.decommission)]
    return joined(*parts)


def _table(cutovers: tuple[CutoverFacts, ...]) -> Markup:
    rows: list[list[Child]] = [
        [
            number(one.id),
            f"{one.kind}, rehearsal" if one.rehearse else f"{one.kind}",
            named(one.approved_by, one.done_by),
            instant(one.started_at),
            instant(one.finished_at),
            number(_downtime(one) or NOTHING),
            NOTHING
            if one.compared_weeks is None
            else f"{count(one.compared_weeks, 'week')}, {count(one.compared_rows or 0, 'row')}: the same",
            joined(_end(one), element("p", _shortened(one.error), class_="hint place") if one.error else None),
        ]
        for one in cutovers
    ]
    names = ["no.", "what", "approved by", "begun at", "ended at", "nobody could write for",
             "compared while nobody wrote", "how it ended"]  # fmt: skip
    return table_of(names, rows)


def _end(one: CutoverFacts) -> Markup:
    source, target = _DATABASE[one.kind.source], _DATABASE[one.kind.target]
    match one.outcome:
        case "succeeded":
            back = " back" if one.kind is CutoverKind.ROLLBACK else ""
            return element("span", f"the applications moved{back} to the {target}", class_="yes")
        case "rehearsed":
            return element("span", "everything but the move was done, and taken back as planned", class_="yes")
        case "aborted" if one.opened_at is not None:
            return element("span", f"the {target} was open, and the applications could not be told: taken back by the"
                           " next one", class_="no")  # fmt: skip
        case "aborted":
            step = f" at “{_TIMELINE_STEPS[one.stopped_at]}”" if one.stopped_at else ""
            return element("span", f"stopped{step} and undone: the applications stayed on the {source}", class_="no")
        case _:
            return element("span", "not finished when this page was written", class_="no")


def _figure(cutovers: tuple[CutoverFacts, ...]) -> Markup | None:
    """Plot the newest cutover that moved the applications; else the newest run that stopped writes at all."""
    held = [one for one in cutovers if one.without_writes]
    moved = [one for one in held if one.kind is CutoverKind.CUTOVER and one.opened_at is not None]
    if not held:
        return None
    one = (moved or held)[-1]
    steps = one.without_writes
    begin = steps[0].started
    # Each step lasts until the next one begins; lengths are in milliseconds.
    data = [Span(_TIMELINE_STEPS[step.state], _ms(step.started - begin), _ms(_length(step))) for step in steps]
    longest = max(data, key=lambda span: span.length)
    what = "rehearsal" if one.rehearse else one.kind.value
    title = f"What the time without writes was spent on: {what} no. {one.id}, {instant(one.held_at)}"
    said = (
        f"Milliseconds since nobody could write to the table any more. Together {milliseconds(_downtime_ms(one))}; the"
        f" longest step, “{longest.name}”, took {milliseconds(longest.length)}. Reading was never held."
    )
    drawn = spans(data, title="Steps of the cutover", x="milliseconds since writing stopped")
    return element("figure", element("h3", title), drawn, element("figcaption", said), class_="steps")


def _decommission(one: DecommissionFacts) -> Markup:
    pairs: list[tuple[str, Child]] = [
        ("approved by", named(one.approved_by, one.done_by)),
        ("begun at", instant(one.started_at)),
        ("done at", instant(one.finished_at) if one.finished_at else "not finished when this page was written"),
        ("what was closed", "the whole old database" if one.scope == "database" else "the table in the old database"),
        ("watched for readers since", instant(one.watched_since)),
        ("last reader seen at", instant(one.last_read_at) if one.last_read_at else "none was seen"),
    ]
    if one.note:
        pairs.append(("note", one.note))
    if one.final is not None:
        pairs += [
            ("rows in it, at the end", f"{one.final.rows:,} in {count(one.weeks, 'week')}"),
            ("their checksum", element("code", one.final.checksum)),
            (
                "was everything in it that the new one had?",
                "yes: the stream back to it was followed to its end"
                if one.complete
                else "not known: the stream back to it was not whole, which was accepted",
            ),
        ]
    return facts_table(pairs)


def _downtime(one: CutoverFacts) -> str | None:
    return None if one.downtime_ms is None else milliseconds(one.downtime_ms)


def _downtime_ms(one: CutoverFacts) -> float:
    return one.downtime_ms or sum(_ms(_length(step)) for step in one.without_writes)


def _length(step: StepTimes) -> timedelta:
    return (step.finished or step.started) - step.started


def _ms(length: timedelta) -> float:
    return length / timedelta(milliseconds=1)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"
