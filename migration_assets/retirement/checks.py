"""What prevents a slice from leaving the base, all of it at once; and bookings that came after a slice left.

While the base is in charge a week leaves only if the legacy holds of it what its archive does. DETACH and DROP do not
travel: the rows stay on the legacy, where only the reverse stream writes, and of a week without a leaf it has nothing
to bring. So what is equal now stays equal.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.findings import blocking, with_acceptances
from migration_assets.domain.fingerprint import METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.sign_off_evidence import why_edited
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, quarter_table_name, quote_identifier
from migration_assets.ledger.archives import ArchiveRecord, read_archive
from migration_assets.ledger.charge import is_abandoned, is_base_in_charge, is_decommissioned
from migration_assets.ledger.own_objects import read_quarantine
from migration_assets.ledger.preflights import read_acceptances
from migration_assets.ledger.retirements import read_retirement
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.stream import StreamStatus, read_stream
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import EVERYTHING, hashed_columns, in_range, take_fingerprint
from migration_assets.postgres.own_schema import own_quarantine
from migration_assets.postgres.retries import wait_until
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row, uncounted
from migration_assets.preflight.own_schema import examine_quarantine
from migration_assets.proof.sign_offs import read_sign_off
from migration_assets.retirement.quarantine import Leaf, Place, place_of
from migration_assets.stream.heartbeats import reverse_arrived, send_reverse_marker
from migration_assets.stream.plan import StreamPlan


def difference(now: Fingerprint, then: Fingerprint) -> str:
    """How two fingerprints differ, in words that are followed by what the second one is of."""
    more = now.rows - then.rows
    if not more:
        return f"as many rows ({now.rows:,}) but other values than"
    return f"{abs(more):,} row{'' if abs(more) == 1 else 's'} {'more' if more > 0 else 'fewer'} than"


def rows_of_week(legacy: Connected, plan: StreamPlan, record: SliceRecord) -> Fingerprint:
    """The native fingerprint of the legacy's rows of the week; reads all of them, and is not counted as a reader."""
    uncounted(legacy)
    description = require_table(legacy, plan.spec.table, "legacy")
    bounds = plan.calendar.bound_values(record.week, description.control_kind(plan.spec.control_column))
    where = in_range(plan.spec.control_column, bounds)
    return take_fingerprint(legacy, plan.spec.table, hashed_columns(description), where)


def why_not_brought(plan: StreamPlan, base: Connected, record: SliceRecord, archive: ArchiveRecord) -> Iterator[str]:
    """Why a rollback would not find on the legacy what the archive holds; empty once no rollback is possible.

    It sends a marker along the reverse stream and waits for it, so that all changes of the leaf until now have arrived.
    """
    if is_decommissioned(base, plan.relation):
        return
    keep = "its rows stay in the base, so that a rollback finds them"
    try:
        marker = send_reverse_marker(base, plan.relation)
        with plan.databases.session("legacy", f"{record.week.key}:brought", plan.limits.timeouts()) as legacy:
            patience = plan.limits.cut_patience_seconds
            if not wait_until(lambda: reverse_arrived(legacy, plan.relation, marker), seconds=patience):
                yield (
                    f"the reverse stream carried nothing to the legacy for {patience:g} s: {keep};"
                    " see `migration-assets stream status`"
                )
                return
            found = rows_of_week(legacy, plan, record)
    except psycopg.OperationalError as error:
        yield f"the legacy cannot be asked what it holds ({told(error)}): {keep}; bring it back, or decommission it"
        return
    if found != archive.native:
        yield (
            f"the legacy, which a rollback would go back to, has {difference(found, archive.native)} the archive:"
            f" {keep}; {_to_mend(record)}, or decommission it"
        )


def _to_mend(record: SliceRecord) -> str:
    key = f"{record.week.quarter.key} {record.week.name}"
    back = f"`migration-assets restore {key}`, then " if record.state is SliceState.RETIRED else ""
    return f"find out who wrote to the legacy: {back}`migration-assets repair-legacy {key}` shows and mends the rows"


Reread = Callable[[ArchiveRecord], object]
_ANEW = "materialize parquet_archive again"
_RUNS = frozenset({StreamStatus.LIVE, StreamStatus.PAUSED})

# Each foreign key that references the table, with its column for the control column, which is in every unique key of
# the base.
_KEYS = """
SELECT k.conname::text, n.nspname::text, c.relname::text, a.attname::text
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(k.conkey, k.confkey) u(here, there)
JOIN pg_attribute f ON f.attrelid = k.confrelid AND f.attnum = u.there AND f.attname = %(control)s
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.here
WHERE k.contype = 'f' AND k.conparentid = 0
  AND k.confrelid = ANY (SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) t) ORDER BY 2, 3, 1
"""


@dataclass(frozen=True)
class LateBooking:
    """A slice that has left the stream or the root, and differs from the legacy now."""

    week: FiscalWeek
    state: SliceState
    archived: Fingerprint
    legacy: Fingerprint

    @property
    def rows(self) -> int:
        """How many more rows the legacy has than the archive; 0 where only values differ, negative for fewer rows."""
        return self.legacy.rows - self.archived.rows

    def __str__(self) -> str:
        return f"{self.week.key}: the legacy has {difference(self.legacy, self.archived)} the archive"


def leaf_of(base: Connected, plan: StreamPlan, record: SliceRecord) -> Leaf:
    """Return the slice's leaf with its quarter and its bounds, by the base's own root."""
    kind = _root(base, plan).control_kind(plan.spec.control_column)
    return Leaf(
        plan.spec.table.sibling(record.leaf),
        plan.spec.table.sibling(quarter_table_name(plan.spec.table.name, record.week.quarter)),
        QualifiedName(own_quarantine(base), record.leaf),
        plan.calendar.bound_values(record.week, kind),
    )


def of_table(base: Connected, plan: StreamPlan, table: QualifiedName) -> Fingerprint:
    """The native fingerprint of a leaf, wherever it lies, taken as the archive's was."""
    return take_fingerprint(base, table, hashed_columns(_root(base, plan)), EVERYTHING)


def of_legacy(base: Connected, plan: StreamPlan, record: SliceRecord) -> Fingerprint | None:
    """The fingerprint of the legacy's rows of the slice now; None where there is no stream."""
    if read_stream(base, plan.relation) is None:
        return None
    with plan.databases.session("legacy", f"{record.week.key}:late", plan.limits.timeouts()) as legacy:
        return rows_of_week(legacy, plan, record)


def _root(base: Connected, plan: StreamPlan) -> TableDescription:
    return require_table(base, plan.spec.table, "base")


def must_be_released(base: Connected, plan: StreamPlan, record: SliceRecord) -> bool:
    """Return whether the stream covers the slice, or may cover it because its release was never finished.

    While the base is in charge no stream covers anything.
    """
    covered = record.under_cdc or record.released is None or record.released.marker is None
    return covered and read_stream(base, plan.relation) is not None and not is_base_in_charge(base, plan.relation)


def obstacles(
    plan: StreamPlan, base: Connected, record: SliceRecord, *, reread: Reread, outside_retention: bool | str
) -> list[str]:
    """List everything that prevents the slice from leaving, as texts; changes nothing.

    Args:
        plan: The stream, which need not exist any more.
        base: In no transaction; holds the slice's lock.
        record: Read under that lock.
        reread: Reads the archive's files again; raises ArchiveError if they are not what was proven.
        outside_retention: Whether the policy lets the slice go; a text says why not.
    """
    found = [
        *_of_ledger(plan, base, record),
        *_pointed_at(plan, base, record),
        *of_quarantine(base, record),
    ]
    if outside_retention is not True:
        found.append(outside_retention or "it is not older than what stays in the base")
    archive = read_archive(base, plan.relation, record.week)
    if archive is None:
        return [*found, "there is no archive of it: materialize parquet_archive"]
    if not archive.verified_equal:
        found.append(f"its archive was found damaged: {archive.verify_error}")
    found += _of_archive(plan, base, record, archive)
    found += why_not_readable(archive, reread)
    return found


def _pointed_at(plan: StreamPlan, base: Connected, record: SliceRecord) -> Iterator[str]:
    """Foreign keys that would keep PostgreSQL from detaching the partition, found before the stream lets go of it."""
    leaf = leaf_of(base, plan, record)
    keys = base.execute(
        _KEYS, {"control": plan.spec.control_column, "tables": [str(plan.spec.table), str(leaf.table)]}
    ).fetchall()
    for name, schema, table, column in keys:
        row = base.execute(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
                sql.Identifier(schema, table), in_range(column, leaf.bounds)
            )
        ).fetchone()
        if require_row(row, "EXISTS")[0]:
            child = QualifiedName(schema, table)
            drop = f"ALTER TABLE {child} DROP CONSTRAINT {quote_identifier(name)};"
            yield f"rows of {child} reference its rows (foreign key {name}): move or delete those, or {drop}"


def of_quarantine(base: Connected, record: SliceRecord) -> Iterator[str]:
    """Yield what keeps the leaf from being moved to quarantine, or from being safe there."""
    for one in blocking(with_acceptances(examine_quarantine(base), read_acceptances(base, record.relation))):
        yield f"{one.evidence}; {one.remedy}"
    seen = read_quarantine(base)
    if seen.missing_right is not None:
        yield f"GRANT USAGE, CREATE ON SCHEMA {own_quarantine(base)} TO {seen.missing_right}"
    if record.leaf in seen.strangers:
        yield f"{own_quarantine(base)}.{record.leaf} exists already and belongs to no week: rename it, or move it away"


def obstacles_to_drop(
    plan: StreamPlan, base: Connected, record: SliceRecord, archive: ArchiveRecord, *, reread: Reread
) -> list[str]:
    """List everything that prevents dropping what is in quarantine, as texts; changes nothing.

    The sign-off held when it left the root, and the rows are proven again here, so that it is not asked for again.
    """
    leaf = leaf_of(base, plan, record)
    found: list[str] = []
    if place_of(base, leaf) is not Place.QUARANTINED:
        found.append(f"{leaf.quarantined} is not there, or a table of its name is in the root's schema")
    elif (now := of_table(base, plan, leaf.quarantined)) != archive.native:
        found.append(f"what is in quarantine has {difference(now, archive.native)} the archive: return the week")
    if not archive.verified_equal:
        found.append(f"its archive was found damaged: {archive.verify_error}")
    found += why_late(plan, base, record, archive)
    found += why_not_readable(archive, reread)
    return found


def why_not_readable(archive: ArchiveRecord, reread: Reread) -> list[str]:
    """What is wrong with the archive's files, read again; empty where every byte is as it was proven."""
    try:
        reread(archive)
    except ArchiveError as error:
        return [f"its archive cannot be trusted: {error.what}. {error.next_step}".rstrip(" .")]
    return []


def why_not_approved(plan: StreamPlan, base: Connected, record: SliceRecord) -> Iterator[str]:
    """Yield what is wrong with the sign-off of the slice's quarter.

    While the base is in charge none is asked for: the cutover compared all of them and has its own approval, and nobody
    could sign what came after. But a sign-off that was edited shows that somebody wrote to the ledger.
    """
    sign_off = read_sign_off(base, plan.spec, record.week.quarter)
    own = is_base_in_charge(base, plan.relation)
    if sign_off.signed is None:
        if not own:
            yield f"{record.week.quarter.key} is not signed off"
        return
    void = list(why_edited(sign_off.signed)) if own else sign_off.void
    if void:
        yield f"the sign-off of {record.week.quarter.key} is void: {'; '.join(void)}"


def _of_ledger(plan: StreamPlan, base: Connected, record: SliceRecord) -> Iterator[str]:
    yield from why_not_approved(plan, base, record)
    if record.state is not SliceState.ARCHIVED:
        yield f"it is {record.state}, not archived"
    retirement = read_retirement(base, plan.relation, record.week)
    if retirement is not None and retirement.under_way and record.state is not SliceState.RETIRED:
        yield f"an earlier retirement of it is {retirement.step}, and yet the week is {record.state}: return it first"
    stream = read_stream(base, plan.relation)
    if stream is not None and stream.status not in _RUNS and must_be_released(base, plan, record):
        yield f"the change stream is {stream.status} and cannot let go of it: `migration-assets stream status`"


def _of_archive(plan: StreamPlan, base: Connected, record: SliceRecord, archive: ArchiveRecord) -> Iterator[str]:
    if archive.method != METHOD:
        yield f"its archive was fingerprinted by method {archive.method}, not {METHOD}: {_ANEW}"
        return
    leaf = leaf_of(base, plan, record)
    if place_of(base, leaf) is not Place.ATTACHED:
        yield f"its leaf {leaf.table} is not in the root"
        return
    now = of_table(base, plan, leaf.table)
    if now != archive.native:
        yield f"its archive is stale: the leaf has {difference(now, archive.native)} it; {_ANEW}"
    if not (record.under_cdc and must_be_released(base, plan, record)):
        yield from why_late(plan, base, record, archive)


def why_late(plan: StreamPlan, base: Connected, record: SliceRecord, archive: ArchiveRecord) -> Iterator[str]:
    """Why it is not known that the legacy holds what the archive of a slice without a stream does; else empty.

    While the legacy is in charge, what it has received since is late. While the base is in charge nothing is late, but
    a rollback must find on the legacy what left the base.
    """
    if is_base_in_charge(base, plan.relation):
        yield from why_not_brought(plan, base, record, archive)
        return
    if is_abandoned(base, plan.relation):
        yield (
            "the migration was abandoned: the legacy is in charge and no stream follows it, so what it has received for"
            " the week since then is not known here: bring a quarter under CDC again (materialize change_stream) first"
        )
        return
    legacy = of_legacy(base, plan, record)
    if legacy is not None and legacy != archive.native:
        yield (
            f"the legacy has {difference(legacy, archive.native)} the archive, since the change stream let go of it:"
            f" {how_to_take_in(record)}"
        )


def how_to_take_in(record: SliceRecord) -> str:
    """The advice for bringing a late booking into the base and the archive."""
    back = "return the week into the root, " if record.state is SliceState.RETIRED else ""
    return f"{back}materialize change_stream for {record.week.quarter.key}, then parquet_archive again"


def late_bookings(plan: StreamPlan, period: FiscalQuarter | FiscalWeek | None = None) -> list[LateBooking]:
    """Return slices that left the stream and got bookings on the legacy afterwards; empty once there is no stream.

    Empty as well while the base is in charge, when the legacy may not have everything yet.

    Reads each such slice of the legacy in full: any difference counts as late, even if the row counts agree.
    """
    found: list[LateBooking] = []
    quarter = period.quarter if isinstance(period, FiscalWeek) else period
    with plan.databases.session("base", f"{period.key if period else 'all'}:late", plan.limits.timeouts()) as base:
        if is_base_in_charge(base, plan.relation):
            return []
        for record in read_slices(base, plan.relation, quarter):
            if isinstance(period, FiscalWeek) and record.week != period:
                continue
            gone = record.state is SliceState.RETIRED or record.released is not None
            archive = read_archive(base, plan.relation, record.week) if gone else None
            if archive is None:
                continue
            legacy = of_legacy(base, plan, record)
            if legacy is not None and legacy != archive.native:
                found.append(LateBooking(record.week, record.state, archive.native, legacy))
    return found
