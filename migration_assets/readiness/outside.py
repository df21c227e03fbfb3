"""Examines whether the legacy holds rows that no week of the base has: before, between, beyond, NULL, infinite."""

from collections.abc import Iterable

from psycopg import errors

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.slice_state import SliceState
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.physical_order import read_physical_order
from migration_assets.preflight.wording import info, milliseconds
from migration_assets.readiness.known_values import sampled_values
from migration_assets.readiness.sides import Sides
from migration_assets.stream.uncovered import (
    Place,
    count_in,
    places_without,
    remedy_of,
)

_CODE = "rows_outside"


def covered(record: SliceRecord) -> bool:
    """Whether the slice's rows are accounted for: followed, or left the stream with an archive."""
    left = record.state is SliceState.ARCHIVED and record.released_at is not None
    return record.under_cdc or left or record.state is SliceState.RETIRED


def examine_outside(sides: Sides) -> list[Finding]:
    """Exact where an index begins with the control column; else an estimate, which says so."""
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
            sides.legacy.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('enable_seqscan', 'off', true)",
                [milliseconds(sides.plan.scan_seconds)],
            )
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
