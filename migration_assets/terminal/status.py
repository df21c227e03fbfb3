"""Slices, states and proofs as tables; the stream and the cutover in one line, from what the base knows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.samples import CutoverSample, ReverseSample, UnderWay
from migration_assets.domain.states import Freshness, SliceState, instant_text
from migration_assets.ledger.slices import SliceRecord
from migration_assets.ledger.stream import StreamStatus
from migration_assets.postgres.activity import Activity
from migration_assets.terminal.figures import (
    STATES,
    Seen,
    bytes_of,
    count,
    differs,
    duration,
    failed,
    gigabytes,
    mark_of,
    megabytes_per_second,
    milliseconds,
)
from migration_assets.watch.overview import CutCosts, Overview, Signature

EMPTY = "The ledger knows no slice yet: materialize quarter_partitions first."
_LOOK = "`migration-assets stream status`"
_RESUME = "`migration-assets stream resume`"
_OLD_LOOK_SECONDS = 300.0
# The width from which each column is shown; only the column with the proof is folded.
_SIZE_FROM, _RATE_FROM, _COPIES_FROM = 88, 112, 126
# States in which a slice counts as signed off.
_SIGNED = frozenset({SliceState.SIGNED_OFF, SliceState.ARCHIVED, SliceState.RETIRED})


def cutover_line(overview: Overview, *, plain: bool = False) -> Text | None:
    """Who is in charge, or the cutover under way; None while only the change stream's line applies."""
    facts = overview.cutover
    good, bad = ("*", "X") if plain else ("●", "✗")
    if facts.under_way is not None:
        return _under_way(facts.under_way, "*" if plain else "◆", bad)
    if facts.in_charge == "legacy":
        return None
    case = CutoverSample(facts.in_charge, facts.since, facts.cutover, decommissioned=facts.decommissioned)
    text = case.text or ""
    if case.decommission_text is not None:
        return Text.assemble((good, "bold green"), " ", (text, "bold green"), f"; {case.decommission_text}")
    trouble = _cutover_trouble(overview.reverse)
    if trouble:
        return Text(f"{bad} {text}, but {trouble}: {_LOOK}", "bold red")
    return Text.assemble((good, "bold green"), " ", (text, "bold green"), "; the reverse stream is being read",
                         *_cutover_figures(overview, overview.reverse))  # fmt: skip


def _under_way(left: UnderWay, at_work: str, bad: str) -> Text:
    if left.alive:
        return Text(f"{at_work} {left.name} is under way, at {left.state}", "bold blue")
    return Text(
        f"{bad} {left.name} was left at {left.state}: its process died; `migration-assets release-writes` finishes or"
        " undoes it",
        "bold red",
    )


def _cutover_trouble(reverse: ReverseSample | None) -> str:
    if reverse is None:
        return ""
    if not reverse.slot_exists:
        return "the reverse stream's slot is gone"
    if reverse.wal_status == "lost":
        return "the reverse stream's slot is lost"
    return "" if reverse.slot_active else "nobody reads the reverse stream"


def _cutover_figures(overview: Overview, reverse: ReverseSample | None) -> list[str | tuple[str, str]]:
    """The WAL that the slot retains now, and the lag at the newest look with its age."""
    known: list[str | tuple[str, str]] = []
    if reverse is not None and reverse.retained_wal_bytes is not None:
        known += [", ", (gigabytes(reverse.retained_wal_bytes), "bold"), " of WAL retained for it"]
    if overview.latest is None or overview.latest.sample.seconds_behind is None:
        return known
    age = overview.latest.age_seconds
    ago = (f" ({duration(age)} ago)", "yellow" if age > _OLD_LOOK_SECONDS else "dim")
    return [*known, ", lag ", (duration(overview.latest.sample.seconds_behind), "bold"), ago]


def stream_line(overview: Overview, *, plain: bool = False) -> Text:
    """Status and its age, whether the stream really runs, and the figures of the newest look with their age."""
    stream = overview.stream
    of_cutover = cutover_line(overview, plain=plain)
    if of_cutover is not None:
        return of_cutover
    if stream is None:
        return Text("There is no change stream yet: `migration-assets stream start QUARTER`.", "dim")
    age = duration((overview.now - stream.status_since).total_seconds())
    if stream.status is not StreamStatus.LIVE:
        why = f": {stream.reason}" if stream.reason else ""
        dot = "||" if plain else "‖"
        return Text(f"{dot} stream {stream.status} for {age}{why}; {_RESUME} resumes it", "bold yellow")
    trouble = _stream_trouble(overview)
    if trouble:
        return Text(f"{'X' if plain else '✗'} stream live for {age}, but {trouble}", "bold red")
    return Text.assemble(("*" if plain else "●", "bold green"), " ", ("stream live", "bold green"), f" for {age}",
                         *_stream_figures(overview))  # fmt: skip


def _stream_trouble(overview: Overview) -> str:
    if overview.worker is None:
        return "its subscription is gone: `migration-assets stream status`"
    if not overview.worker.enabled:
        return f"its subscription is disabled: {_RESUME}"
    return "" if overview.worker.pid is not None else "no apply worker runs: `migration-assets stream status`"


def _stream_figures(overview: Overview) -> list[str | tuple[str, str]]:
    if overview.latest is None:
        return [("; its lag was not measured yet", "dim")]
    sample, age = overview.latest.sample, overview.latest.age_seconds
    known: list[str | tuple[str, str]] = []
    if sample.lag_seconds is not None:
        known += [", lag ", (duration(sample.lag_seconds), "bold")]
    if sample.retained_wal_bytes is not None:
        known += [", ", (gigabytes(sample.retained_wal_bytes), "bold"), " of WAL retained"]
    return [*known, (f" ({duration(age)} ago)", "yellow" if age > _OLD_LOOK_SECONDS else "dim")]


def costs_line(costs: CutCosts | None) -> Text:
    """What the last cuts cost the legacy's writers."""
    if costs is None:
        return Text("No cut was taken yet.", "dim")
    worst = f", worst try {milliseconds(costs.worst_try_ms)}" if costs.worst_try_ms > costs.held_max else ""
    return Text(
        f"Last {count(costs.cuts, 'cut')}: writers held p50 {milliseconds(costs.held_p50)},"
        f" p99 {milliseconds(costs.held_p99)}, max {milliseconds(costs.held_max)}{worst}"
    )


def status_page(overview: Overview, max_age: timedelta) -> RenderableType:
    """The whole page of one look: the stream, the quarters, and what the cuts cost."""
    if not overview.slices:
        return Text(EMPTY)
    seen = Seen.of(overview, max_age)
    parts: list[RenderableType] = [stream_line(overview), Text()]
    parts.append(status_tables(overview.slices, overview.activity, seen, overview.signatures))
    if overview.stream is not None:
        parts.append(costs_line(overview.costs))
    return Group(*parts)


def status_tables(
    records: Sequence[SliceRecord],
    activity: Mapping[FiscalWeek, Activity],
    seen: Seen | None = None,
    signatures: Mapping[FiscalQuarter, Signature] | None = None,
) -> RenderableType:
    """A table for each quarter; slices that are being worked on show what the server reports of them now."""
    if not records:
        return Text(EMPTY)
    return Group(
        *(
            _Quarter(quarter, list(group), activity, seen or Seen(), (signatures or {}).get(quarter))
            for quarter, group in groupby(records, lambda r: r.week.quarter)
        )
    )


class _Quarter:
    """The table of one quarter, with as many columns as the terminal has room for."""

    def __init__(
        self,
        quarter: FiscalQuarter,
        records: list[SliceRecord],
        activity: Mapping[FiscalWeek, Activity],
        seen: Seen,
        signature: Signature | None,
    ) -> None:
        self._quarter = quarter
        self._records = records
        self._activity = activity
        self._seen = seen
        self._signature = signature

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", border_style="dim")
        table.add_column("week", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for name, wide_enough in _shown(width):
            if wide_enough:
                table.add_column(name, justify="right", no_wrap=True)
        table.add_column("proof, or what goes on", overflow="fold")
        for record in self._records:
            table.add_row(*self._cells(record, width, plain=options.ascii_only))
        yield self._title()
        yield table
        yield Text()

    def _title(self) -> Text:
        done = [record for record in self._records if record.state is not SliceState.ABSENT]
        rows = sum(record.base.rows for record in done if record.base)
        size = sum(bytes_of(record) for record in done)
        title = Text(self._quarter.key, "bold").append(f": {count(rows, 'row')}, {gigabytes(size)}; ", "not bold")
        title.append_text(states_summary(self._records))
        if self._signature is not None:
            stands = all(record.state in _SIGNED for record in self._records)
            void = "" if stands else ", void by now"
            signed = f"signed off by {self._signature.approved_by}, {instant_text(self._signature.signed_at)}{void}"
            title.append(f"\n{signed}", "green" if stands else "yellow")
        return title

    def _cells(self, record: SliceRecord, width: int, *, plain: bool) -> list[RenderableType]:
        mark, state = mark_of(record, self._seen), STATES[record.state]
        rate = megabytes_per_second(record)
        figures = (
            f"{record.base.rows:,}" if record.base else "",
            gigabytes(record.copied.table_bytes) if record.copied else "",
            f"{rate:,.1f}" if rate else "",
            f"{rate * 3.6:,.1f}" if rate else "",
            str(record.copies or ""),
        )
        return [
            record.week.name,
            Text(mark.plain if plain else mark.symbol, mark.style).append(f" {state.word}", state.style),
            *(figure for figure, (_, wide_enough) in zip(figures, _shown(width), strict=True) if wide_enough),
            _last_column(record, self._activity.get(record.week), self._seen),
        ]


def _shown(width: int) -> list[tuple[str, bool]]:
    return [("rows", True), ("size", width >= _SIZE_FROM), ("MB/s", width >= _COPIES_FROM),
            ("GB/h", width >= _RATE_FROM), ("copies", width >= _COPIES_FROM)]  # fmt: skip


def states_summary(records: Sequence[SliceRecord]) -> Text:
    """The number of slices in each state, in the order of a slice's life: `10 validated, 3 streaming`."""
    counted = Counter(record.state for record in records)
    parts = [Text(f"{counted[state]} {mark.word}", mark.style) for state, mark in STATES.items() if counted[state]]
    return Text(", ").join(parts)


def _last_column(record: SliceRecord, now: Activity | None, seen: Seen) -> Text:
    lines: list[Text] = []
    if record.working:
        lines.append(Text(_at_work(now), "bold blue"))
    proof = proof_text(record, seen)
    if proof.plain:
        lines.append(proof)
    # What a validation found is in the proof already.
    if failed(record) and not (differs(record) and _found_a_difference(record)):
        lines.append(failure_text(record))
    return Text("\n").join(lines)


def failure_text(record: SliceRecord) -> Text:
    """How the newest try at a slice ended, in one line."""
    if record.attempt is None:
        return Text("")
    first_line = "".join((record.attempt.error or "").splitlines()[0:1])
    # Where it happened is said already.
    for known in (record.relation, record.week.key):
        first_line = first_line.replace(f"{known}: ", "")
    return Text(f"last {record.attempt.action} {record.attempt.outcome}: {first_line[:200]}", "red")


def _found_a_difference(record: SliceRecord) -> bool:
    return record.attempt is not None and record.attempt.outcome == "mismatch"


def _at_work(now: Activity | None) -> str:
    if now is None:
        return "at work"
    rows = f", {count(now.rows, 'row')}" if now.rows else ""
    return f"{now.phase}{rows}, {duration(now.seconds)}"


def proof_text(record: SliceRecord, seen: Seen) -> Text:
    """What is proven of the slice, how old the proof is, and how many changes the stream applied since."""
    if record.legacy is None or record.base is None or record.state is SliceState.ABSENT:
        return Text("")
    if record.validated is not None:
        return _validation(record, record.validated.at, seen)
    if differs(record):
        return Text("DIFFERS from the legacy", "bold red")
    return Text("equal when copied" + ("" if record.verified is None else ", re-read"), "green")


def _validation(record: SliceRecord, at: datetime, seen: Seen) -> Text:
    ago = "" if seen.now is None else f" {duration((seen.now - at).total_seconds())} ago"
    changes = seen.last(record).stream_changes
    since = "" if changes is None else f"; since then {count(changes, 'change') if changes else 'no changes'}"
    # A slice was equal when it joined the stream, which is not yet the validation that a sign-off requires.
    word = "equal" if record.state is SliceState.STREAMING else "validated"
    match seen.freshness(record):
        case Freshness.FAILED:
            found = f": {record.attempt.error}" if record.attempt and _found_a_difference(record) else ""
            return Text(f"DIFFERED{ago}{found}", "bold red")
        case Freshness.CHANGED:
            return Text(f"changed by us since its validation{ago}: validate it", "yellow")
        case Freshness.ALTERED:
            return Text(f"{word}{ago}, stale: {seen.last(record).altered} since then", "yellow")
        case Freshness.OLD:
            return Text(f"{word}{ago}, too old{since}", "yellow")
        case _:
            return Text(f"{word}{ago}{since}", "green")
