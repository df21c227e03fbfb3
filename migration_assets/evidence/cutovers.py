"""The section of a pack on cutovers, rollbacks and the decommission: where the applications work, and since when."""

from datetime import timedelta

from migration_assets.domain.cutover_state import CutoverKind, CutoverState, SideName
from migration_assets.domain.evidence_cutover import (
    CutoverFacts,
    DecommissionFacts,
    StepTimes,
    in_charge,
    last_opened,
)
from migration_assets.domain.evidence_pack import PackFacts
from migration_assets.evidence.markup import Child, Markup, element, joined, named
from migration_assets.evidence.svg import Span, spans
from migration_assets.evidence.tables import facts_table, number, table_of
from migration_assets.evidence.wording import NOTHING, count, instant, milliseconds

_DATABASE: dict[SideName, str] = {"legacy": "old database", "base": "new database"}
_STEPS = {
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
    """Where the applications work, since when, who approved it."""
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
    """The sentence on every page; on that of the whole migration all there is to it."""
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
            step = f" at “{_STEPS[one.stopped_at]}”" if one.stopped_at else ""
            return element("span", f"stopped{step} and undone: the applications stayed on the {source}", class_="no")
        case _:
            return element("span", "not finished when this page was written", class_="no")


def _figure(cutovers: tuple[CutoverFacts, ...]) -> Markup | None:
    """Of the newest that moved the applications to the new database; else of the newest that stopped writing at all."""
    held = [one for one in cutovers if one.without_writes]
    moved = [one for one in held if one.kind is CutoverKind.CUTOVER and one.opened_at is not None]
    if not held:
        return None
    one = (moved or held)[-1]
    steps = one.without_writes
    begin = steps[0].started
    # Each as long as until the next one, in milliseconds.
    data = [Span(_STEPS[step.state], _ms(step.started - begin), _ms(_length(step))) for step in steps]
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
