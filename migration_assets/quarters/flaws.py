"""Compares the base's partitions with calendar and ledger: gaps, wrong bounds, unknown or default partitions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.domain.samples import Severity
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_spec import (
    TableSpec,
    leaf_name,
    parse_leaf_name,
    parse_quarter_table_name,
    quarter_table_name,
)
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.catalogue import describe_table
from migration_assets.postgres.sessions import Connected
from migration_assets.quarters.runway import (
    LEAF_LEVEL,
    Partition,
    is_settled,
    read_partitions,
)

_OPEN = "materialize quarter_partitions for {}"
_SETTINGS = "set MIGRATION_FISCAL_* back to what the base was partitioned with, or move the rows and drop it"
_STRANGER = "find out who made it and what it holds; detach it, then materialize quarter_partitions"


@dataclass(frozen=True)
class Flaw:
    """One difference between the partitions and what they should be, with the next step."""

    severity: Severity
    what: str
    next_step: str


def find_flaws(base: Connected, spec: TableSpec, calendar: FiscalCalendar) -> list[Flaw]:
    """Find all flaws from the first to the last quarter that the ledger knows, and of every existing partition."""
    description = describe_table(base, spec.table)
    if description is None:
        return [Flaw(Severity.CRITICAL, f"the base has no table {spec.table}", _OPEN.format("its quarters"))]
    records = {record.week: record for record in read_slices(base, spec.relation)}
    partitions = read_partitions(base, spec.table)
    kind = description.control_kind(spec.control_column)
    named = {one.table: _period(spec, one) for one in partitions}
    known = {period for period in named.values() if period is not None}
    expected = _bound_clauses(base, {period: calendar.bound_values(period, kind) for period in known})
    flaws = [flaw for one in partitions for flaw in _of_partition(one, named[one.table], expected, records)]
    reached = {period for one in partitions if one.reached and (period := named[one.table]) is not None}
    return [*flaws, *_gaps(spec, records, reached)]


def _period(spec: TableSpec, partition: Partition) -> FiscalQuarter | FiscalWeek | None:
    """The quarter or week that the partition holds by its name, schema and parent; None where they do not fit."""
    if partition.table.schema != spec.table.schema:
        return None
    if partition.level == LEAF_LEVEL:
        week = parse_leaf_name(spec.table.name, partition.table.name)
        at_home = week is not None and partition.parent.name == quarter_table_name(spec.table.name, week.quarter)
        return week if at_home else None
    return parse_quarter_table_name(spec.table.name, partition.table.name) if partition.level == 1 else None


def _bound_clauses(
    base: Connected, bounds: Mapping[FiscalQuarter | FiscalWeek, tuple[object, object]]
) -> dict[FiscalQuarter | FiscalWeek, str]:
    """The bounds of each period as the server writes them; one query for all."""
    if not bounds:
        return {}
    rows = base.execute(
        "SELECT format('FOR VALUES FROM (%%L) TO (%%L)', lower::text, upper::text)"
        " FROM unnest(%s, %s) WITH ORDINALITY AS b (lower, upper, n) ORDER BY n",
        [[pair[0] for pair in bounds.values()], [pair[1] for pair in bounds.values()]],
    ).fetchall()
    return {period: str(row[0]) for period, row in zip(bounds, rows, strict=True)}


def _of_partition(
    partition: Partition,
    period: FiscalQuarter | FiscalWeek | None,
    expected: Mapping[FiscalQuarter | FiscalWeek, str],
    records: Mapping[FiscalWeek, SliceRecord],
) -> Iterator[Flaw]:
    table, parent = partition.table, partition.parent
    if partition.bounds == "DEFAULT":
        yield Flaw(
            Severity.CRITICAL,
            f"{table} is a default partition: it takes rows of any missing week, and opening a quarter would scan it",
            f"move its rows away, then ALTER TABLE {parent} DETACH PARTITION {table};",
        )
        return
    if period is None:
        yield Flaw(Severity.CRITICAL, f"{table} under {parent} is no partition of the calendar's", _STRANGER)
        return
    if partition.detaching:
        yield Flaw(
            Severity.CRITICAL,
            f"a detach of {table} ({period.key}) was begun and never finished: it gets no rows",
            f"ALTER TABLE {parent} DETACH PARTITION {table} FINALIZE; then attach it again, or retire it",
        )
    if partition.unlogged:
        yield Flaw(
            Severity.CRITICAL,
            f"{table} is UNLOGGED: a crash of the base empties it",
            f"ALTER TABLE {table} SET LOGGED; then validate its week",
        )
    if partition.bounds != expected[period]:
        yield Flaw(
            Severity.CRITICAL,
            f"{table} has bounds {partition.bounds}, the calendar says {expected[period]} for {period.key}",
            _SETTINGS,
        )
    record = records.get(period) if isinstance(period, FiscalWeek) else None
    if record is not None and record.state is SliceState.RETIRED:
        yield Flaw(
            Severity.WARNING,
            f"{table} is attached, and the ledger says that {period.key} was retired",
            "find out who attached it and what it holds; materialize restored_slice if it is to stay",
        )
    weeks = [period] if isinstance(period, FiscalWeek) else FiscalCalendar.weeks_of(period)
    if not any(week in records for week in weeks):
        yield Flaw(
            Severity.WARNING,
            f"the ledger does not know {table} ({period.key})",
            _OPEN.format(period.quarter.key if isinstance(period, FiscalWeek) else period.key),
        )


def _gaps(
    spec: TableSpec, records: Mapping[FiscalWeek, SliceRecord], reached: set[FiscalQuarter | FiscalWeek]
) -> Iterator[Flaw]:
    weeks = [week for week, record in records.items() if week not in reached and not is_settled(record)]
    for quarter, lost in _by_quarter(weeks):
        names = ", ".join(week.name for week in lost)
        yield Flaw(
            Severity.CRITICAL,
            f"gap in {quarter.key}: no partition takes rows of {names} ({leaf_name(spec.table.name, lost[0])}"
            + (" …)" if len(lost) > 1 else ")"),
            f"attach what was detached again, or {_OPEN.format(quarter.key)}"
            " and, where it was under CDC, change_stream with rebuild set",
        )
    quarters = sorted({week.quarter for week in records})
    if quarters:
        between = FiscalCalendar.quarters_between(quarters[0], quarters[-1])
        never = [quarter.key for quarter in between if quarter not in set(quarters)]
        if never:
            yield Flaw(
                Severity.WARNING,
                f"between its first and its last quarter the base has no partitions for {', '.join(never)}",
                _OPEN.format("each of them, and copy them"),
            )


def _by_quarter(weeks: Iterable[FiscalWeek]) -> Iterator[tuple[FiscalQuarter, Sequence[FiscalWeek]]]:
    ordered = sorted(weeks)
    for quarter in dict.fromkeys(week.quarter for week in ordered):
        yield quarter, [week for week in ordered if week.quarter == quarter]
