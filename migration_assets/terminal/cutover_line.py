"""Who is in charge and what is under way, in one line, from what the base alone knows; before any cutover nothing."""

from rich.text import Text

from migration_assets.domain.cutover_sample import CutoverSample, ReverseSample, UnderWay
from migration_assets.terminal.figures import duration, gigabytes
from migration_assets.watch.overview import Overview

_LOOK = "`migration-assets stream status`"
_OLD_LOOK_SECONDS = 300.0


def cutover_line(overview: Overview, *, plain: bool = False) -> Text | None:
    """What is said in place of the change stream's line; None where that one is to be said."""
    facts = overview.cutover
    good, bad = ("*", "X") if plain else ("●", "✗")
    if facts.under_way is not None:
        return _under_way(facts.under_way, "*" if plain else "◆", bad)
    if facts.in_charge == "legacy":
        return None
    case = CutoverSample(facts.in_charge, facts.since, facts.cutover, decommissioned=facts.decommissioned)
    said = case.text or ""
    if case.decommission_text is not None:
        return Text.assemble((good, "bold green"), " ", (said, "bold green"), f"; {case.decommission_text}")
    trouble = _trouble(overview.reverse)
    if trouble:
        return Text(f"{bad} {said}, but {trouble}: {_LOOK}", "bold red")
    return Text.assemble((good, "bold green"), " ", (said, "bold green"), "; the reverse stream is read",
                         *_figures(overview, overview.reverse))  # fmt: skip


def _under_way(left: UnderWay, at_work: str, bad: str) -> Text:
    if left.alive:
        return Text(f"{at_work} {left.name} is under way, at {left.state}", "bold blue")
    return Text(
        f"{bad} {left.name} was left at {left.state}: its process died; `migration-assets release-writes` finishes or"
        " undoes it",
        "bold red",
    )


def _trouble(reverse: ReverseSample | None) -> str:
    if reverse is None:
        return ""
    if not reverse.slot_exists:
        return "the reverse stream's slot is gone"
    if reverse.wal_status == "lost":
        return "the reverse stream's slot is lost"
    return "" if reverse.slot_active else "nobody reads the reverse stream"


def _figures(overview: Overview, reverse: ReverseSample | None) -> list[str | tuple[str, str]]:
    """The slot's now, and the lag of the newest look with its age."""
    known: list[str | tuple[str, str]] = []
    if reverse is not None and reverse.retained_wal_bytes is not None:
        known += [", ", (gigabytes(reverse.retained_wal_bytes), "bold"), " of WAL kept for it"]
    if overview.latest is None or overview.latest.sample.seconds_behind is None:
        return known
    age = overview.latest.age_seconds
    ago = (f" ({duration(age)} ago)", "yellow" if age > _OLD_LOOK_SECONDS else "dim")
    return [*known, ", lag ", (duration(overview.latest.sample.seconds_behind), "bold"), ago]
