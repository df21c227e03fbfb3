"""The sentence at the top of a pack: is it proven, and what is missing where it is not."""

from dataclasses import dataclass
from enum import StrEnum

from migration_assets.domain.evidence_pack import PackFacts, QuarterEvidence, Verdict
from migration_assets.evidence.wording import count, instant, listed

_SHOWN = 6


class Level(StrEnum):
    """How the sentence is to be read at a glance."""

    GOOD = "good"
    OPEN = "open"
    BAD = "bad"


@dataclass(frozen=True)
class Answer:
    """The word, the sentence, and what it rests on or what is missing, one thing a line."""

    level: Level
    word: str
    sentence: str
    details: tuple[str, ...] = ()


def answer(facts: PackFacts) -> Answer:
    """Is what this page is about proven? A chain that does not hold comes before everything else."""
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
