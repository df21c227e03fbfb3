"""Verifies a copied slice: reads it again through the base's root and compares it with the copy's fingerprint."""

from dataclasses import dataclass

from migration_assets.domain.errors import LedgerError, SliceMismatchError, SliceStateError
from migration_assets.domain.fingerprint import METHOD, Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.slices import (
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
    read_slice,
    record_verification,
    slice_lock,
)
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.fingerprints import hashed_columns, in_range, take_fingerprint
from migration_assets.postgres.sessions import Connected, Databases, Timeouts
from migration_assets.postgres.snapshots import base_tables, reading


@dataclass(frozen=True)
class Verified:
    """Both fingerprints, which are equal: otherwise `verify_slice` raises."""

    legacy: Fingerprint
    base: Fingerprint


def verify_slice(
    databases: Databases,
    spec: TableSpec,
    calendar: FiscalCalendar,
    week: FiscalWeek,
    *,
    timeouts: Timeouts,
    run_id: str | None = None,
) -> Verified:
    """Compare the base's rows of the week, read now, with the legacy's fingerprint taken in the copy's snapshot.

    This is possible only while nothing writes to the slice, that is in state `copied`. The legacy is not asked.

    Raises:
        SliceMismatchError: They differ; the ledger notes it, and the slice must be copied again.
        SliceStateError: The slice was never copied, or is under CDC by now.
        SliceBusyError: Another process works on it.
        LedgerError: The copy's fingerprint was taken by another method.
    """
    with databases.session("base", f"{week.key}:verify", timeouts) as base:
        record = read_slice(base, spec.relation, week)
        if record is None:
            raise _not_copied(week)
        with slice_lock(base, record) as held:
            if held.legacy is None or held.state is not SliceState.COPIED:
                raise _not_copied(week, held)
            if held.method != METHOD:
                raise LedgerError(
                    f"the copy's fingerprint was taken by method {held.method}, this program's is {METHOD}",
                    where=week.key,
                    state_left="nothing was touched",
                    next_step="copy the slice again",
                )
            return _compare(base, held, held.legacy, spec, calendar, run_id)


def _not_copied(week: FiscalWeek, record: SliceRecord | None = None) -> SliceStateError:
    return SliceStateError(
        f"the slice is {record.state if record else SliceState.ABSENT}; only a copied one can be verified so",
        where=week.key,
        state_left="nothing was touched",
        next_step="materialize validated_slice for it: it compares both sides at a cut"
        if record and record.under_cdc
        else "materialize migrated_slice for it",
    )


def _compare(
    base: Connected,
    record: SliceRecord,
    legacy: Fingerprint,
    spec: TableSpec,
    calendar: FiscalCalendar,
    run_id: str | None,
) -> Verified:
    attempt = begin_attempt(base, record, "verify", run_id)
    try:
        tables = base_tables(base, spec, [record.week])
        with reading(base, tables):
            found = _fingerprint(base, record, spec, calendar)
    except BaseException as error:
        note_failure(base, attempt, error)
        raise
    equal = found == legacy
    with base.transaction():
        record_verification(base, record, found, equal=equal)
        end_attempt(base, attempt, "succeeded" if equal else "mismatch", legacy=legacy, base=found)
    if not equal:
        raise SliceMismatchError(
            legacy,
            found,
            where=record.week.key,
            state_left="the leaf is as it was found; the ledger notes the difference",
            next_step="materialize migrated_slice for this week (on the asset's page: only failed and missing): it"
            " replaces the leaf",
        )
    return Verified(legacy, found)


def _fingerprint(base: Connected, record: SliceRecord, spec: TableSpec, calendar: FiscalCalendar) -> Fingerprint:
    description = require_table(base, spec.table, "base")
    bounds = calendar.bound_values(record.week, description.control_kind(spec.control_column))
    # By the bounds through the root, not from the leaf, because that is what applications read.
    return take_fingerprint(base, spec.table, hashed_columns(description), in_range(spec.control_column, bounds))
