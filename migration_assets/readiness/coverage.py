"""Examines whether every quarter that holds rows is signed off and fresh, and whether rows lie where no week is.

Where reading takes too long, the answer comes from what ANALYZE last saw, and says so.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time

from psycopg import errors, sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import ControlKind, FiscalQuarter
from migration_assets.domain.states import Freshness, SliceState
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.ledger.definitions import altered_since, table_states
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.catalogue import changes_by_leaf
from migration_assets.postgres.physical_order import read_physical_order
from migration_assets.postgres.sessions import require_row, set_limits
from migration_assets.postgres.sql_text import raw_sql
from migration_assets.preflight.plan import info, listed
from migration_assets.proof.sign_offs import last_validation, read_sign_off
from migration_assets.quarters.legacy_weeks import held_quarters
from migration_assets.quarters.runway import attached_leaves, read_partitions
from migration_assets.readiness.rules import Sides
from migration_assets.stream.uncovered import Place, count_in, places_without, remedy_of

_TYPES = {ControlKind.TIMESTAMPTZ: "timestamptz", ControlKind.TIMESTAMP: "timestamp", ControlKind.DATE: "date"}


def sampled_values(sides: Sides, condition: sql.Composable) -> tuple[int, int]:
    """How many values of the control column ANALYZE kept, and how many of them meet `condition`, which is on `v`."""
    kind = sides.of_legacy.control_kind(sides.spec.control_column)
    row = sides.legacy.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE {condition}) FROM pg_stats s,"
            " unnest(coalesce(s.histogram_bounds::text::{type}[], '{{}}')"
            " || coalesce(s.most_common_vals::text::{type}[], '{{}}')) AS v"
            " WHERE s.schemaname = {schema} AND s.tablename = {table} AND s.attname = {column}"
        ).format(
            condition=condition,
            type=raw_sql(_TYPES[kind]),
            schema=sql.Literal(sides.spec.table.schema),
            table=sql.Literal(sides.spec.table.name),
            column=sql.Literal(sides.spec.control_column),
        )
    ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def values_in_statistics(sides: Sides) -> list[datetime]:
    """The finite values that ANALYZE kept, as instants in the calendar's time zone."""
    kind = sides.of_legacy.control_kind(sides.spec.control_column)
    rows = sides.legacy.execute(
        sql.SQL(
            "SELECT v FROM pg_stats s, unnest(coalesce(s.histogram_bounds::text::{type}[], '{{}}')"
            " || coalesce(s.most_common_vals::text::{type}[], '{{}}')) AS v"
            " WHERE s.schemaname = {schema} AND s.tablename = {table} AND s.attname = {column}"
            " AND v > '0002-01-01' AND v < '9998-01-01'"
        ).format(
            type=raw_sql(_TYPES[kind]),
            schema=sql.Literal(sides.spec.table.schema),
            table=sql.Literal(sides.spec.table.name),
            column=sql.Literal(sides.spec.control_column),
        )
    ).fetchall()
    return [_instant(row[0], sides) for row in rows]


def _instant(value: date, sides: Sides) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=sides.calendar.zone)
    return datetime.combine(value, time(), tzinfo=sides.calendar.zone)


def examine_sign_offs(sides: Sides) -> list[Finding]:
    """Findings for each quarter that lacks something, and one that says how the quarters were found."""
    of_legacy, how = _held_by_legacy(sides)
    records = read_slices(sides.base, sides.spec.relation)
    of_base = _held_by_base(sides, records)
    held = sorted({*of_legacy, *of_base})
    findings: list[Finding] = []
    for quarter in held:
        mine = [record for record in records if record.week.quarter == quarter]
        where = " and ".join(
            side for side, quarters in (("legacy", of_legacy), ("base", of_base)) if quarter in quarters
        )
        findings += [*_signed(sides, quarter, where, mine), *_fresh(sides, quarter, mine)]
    keys = listed(quarter.key for quarter in held) or "none"
    good = f"quarters that hold rows: {keys} (legacy: {how}; base: exactly)"
    findings.append(info("quarters_held", Area.DATA, good))
    if not held:
        remedy = "check that MIGRATION_TABLE and both URLs are right"
        findings.append(Finding("quarter_signed_off", Area.DATA, Severity.BLOCKING, "no quarter holds a row", remedy))
    return findings


def _held_by_legacy(sides: Sides) -> tuple[set[FiscalQuarter], str]:
    try:
        with sides.legacy.transaction(force_rollback=True):
            set_limits(sides.legacy, statement=sides.plan.scan_seconds * 1000)
            return set(held_quarters(sides.legacy, sides.of_legacy, sides.spec, sides.calendar)), "exactly"
    except errors.QueryCanceled:
        values = values_in_statistics(sides)
        return {sides.calendar.quarter_of(value) for value in values}, (
            f"an estimate by statistics, since reading took longer than {sides.plan.scan_seconds:g} s"
        )


def _held_by_base(sides: Sides, records: list[SliceRecord]) -> set[FiscalQuarter]:
    attached = attached_leaves(sides.spec.table, read_partitions(sides.base, sides.spec.table))
    held: set[FiscalQuarter] = set()
    for record in records:
        if record.week in attached and record.week.quarter not in held:
            leaf = sql.Identifier(sides.spec.table.schema, record.leaf)
            row = sides.base.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(leaf)).fetchone()
            if require_row(row, "EXISTS")[0]:
                held.add(record.week.quarter)
    return held


def _signed(sides: Sides, quarter: FiscalQuarter, where: str, records: list[SliceRecord]) -> list[Finding]:
    code = "quarter_signed_off"
    if not records:
        remedy = f"materialize quarter_partitions for {quarter.key}, then all that follows, up to sign_off"
        evidence = f"{quarter.key} holds rows in the {where}, and the base has no partitions for them"
        return [Finding(code, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    state = read_sign_off(sides.base, sides.spec, quarter)
    if state.signed is None:
        states = ", ".join(sorted({record.state.value for record in records}))
        remedy = f"migration-assets sign-off {quarter.key}: what is missing until then is listed there"
        evidence = f"{quarter.key} holds rows in the {where} and was never signed off; its weeks are {states}"
        return [Finding(code, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    by = f"signed off by {state.signed.approved_by} at {state.signed.signed_at:%Y-%m-%d %H:%M} UTC"
    if state.void:
        remedy = f"validate the weeks it names, reconcile the quarter, then migration-assets sign-off {quarter.key}"
        evidence = f"{quarter.key} was {by}, and that is void: {listed(state.void)}"
        return [Finding(code, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    return [info(code, Area.DATA, f"{quarter.key} is {by}")]


def _fresh(sides: Sides, quarter: FiscalQuarter, records: list[SliceRecord]) -> list[Finding]:
    """Whether the weeks under CDC were validated lately; weeks that left the stream are proven by their archives."""
    covered = [record for record in records if record.under_cdc]
    now = require_row(sides.base.execute("SELECT clock_timestamp()").fetchone(), "the clock")[0]
    counted = changes_by_leaf(sides.base, sides.spec.table, [record.leaf for record in covered])
    table = sides.spec.table
    proofs = [(record.week, record.leaf, record.definitions) for record in covered]
    altered = altered_since(sides.base, sides.spec, proofs, table_states(sides.legacy, [table]).get(table))
    stale: list[str] = []
    for record in covered:
        last = last_validation(record, counted.get(record.leaf), altered.get(record.week))
        if last.freshness(now=now, max_age=sides.plan.max_age) is not Freshness.FRESH:
            stale.append(f"{record.week.name}: {last.describe(now=now, max_age=sides.plan.max_age)}")
    if not stale:
        return [info("weeks_fresh", Area.DATA, f"{quarter.key}: {len(covered)} weeks under CDC, all validated lately")]
    evidence = f"{quarter.key}: {len(stale)} of {len(covered)} weeks under CDC are not fresh: {listed(stale)}"
    remedy = f"migration-assets validate {quarter.key} (or the schedule ongoing_validation)"
    return [Finding("weeks_fresh", Area.DATA, Severity.BLOCKING, evidence, remedy)]


_CODE = "rows_outside"


def covered(record: SliceRecord) -> bool:
    """Whether the slice's rows are accounted for: followed, or left the stream with an archive."""
    left = record.state is SliceState.ARCHIVED and record.released is not None
    return record.under_cdc or left or record.state is SliceState.RETIRED


def examine_outside(sides: Sides) -> list[Finding]:
    """Rows outside of all weeks: counted exactly where an index begins with the control column, else estimated."""
    weeks = [record.week for record in read_slices(sides.base, sides.spec.relation) if covered(record)]
    if not weeks:
        remedy = "bring the quarters under CDC: materialize migrated_slice, then change_stream"
        return [Finding(_CODE, Area.DATA, Severity.BLOCKING, "no week is under CDC, archived or retired", remedy)]
    kind = sides.of_legacy.control_kind(sides.spec.control_column)
    places = places_without(sides.calendar.bound_values(week, kind) for week in weeks)
    order = read_physical_order(sides.legacy, sides.spec.table, sides.spec.control_column)
    if order.control_index is None:
        return _estimated(sides, places)
    try:
        with sides.legacy.transaction(force_rollback=True):
            set_limits(sides.legacy, statement=sides.plan.scan_seconds * 1000)
            sides.legacy.execute("SELECT set_config('enable_seqscan', 'off', true)")
            found = count_in(sides.legacy, sides.spec, places)
    except errors.QueryCanceled:
        remedy = f"raise the time for it, or find out why index {order.control_index} does not help"
        evidence = f"not known: counting took longer than {sides.plan.scan_seconds:g} s"
        return [Finding(_CODE, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    by = f"exactly, by index {order.control_index}"
    findings = [
        Finding(
            _CODE,
            Area.DATA,
            Severity.BLOCKING,
            f"{one} (counted {by})",
            remedy_of(sides.spec, one.place),
        )
        for one in found
    ]
    return findings or [info(_CODE, Area.DATA, f"every row lies in a week of the base (counted {by})")]


def _estimated(sides: Sides, places: Iterable[Place]) -> list[Finding]:
    column = quote_identifier(sides.spec.control_column)
    index = f"CREATE INDEX CONCURRENTLY ON {sides.spec.table} ({column}); -- then they are counted exactly"
    kept, seen = 0, list[tuple[Place, int]]()
    for place in places:
        kept, hits = sampled_values(sides, place.condition)
        if hits:
            seen.append((place, hits))
    basis = f"an estimate by statistics, since no index begins with {column}"
    if not kept:
        evidence = f"not known: no index begins with {column}, and the legacy's table was never analyzed"
        return [Finding(_CODE, Area.DATA, Severity.BLOCKING, evidence, f"ANALYZE {sides.spec.table}; or {index}")]
    if seen:
        return [
            Finding(
                _CODE,
                Area.DATA,
                Severity.BLOCKING,
                f"rows {place.name}: {hits} of the {kept} values that ANALYZE kept ({basis})",
                remedy_of(sides.spec, place),
            )
            for place, hits in seen
        ]
    evidence = f"none of the {kept} values that ANALYZE kept lies outside ({basis}: a few rows may)"
    return [Finding(_CODE, Area.DATA, Severity.WARNING, evidence, index)]
