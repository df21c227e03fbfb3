"""Sign-offs in the ledger: the facts to decide on, the record itself, and whether it is still valid."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from migration_assets.domain.definitions import Definitions, TableState
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.fingerprint import METHOD
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.sign_off import (
    Approval,
    CutFacts,
    QuarterFacts,
    ReconciliationFacts,
    StreamFacts,
    Versions,
    WeekFacts,
)
from migration_assets.domain.sign_off_evidence import SignedOff, sign, why_void
from migration_assets.domain.states import LastValidation, SliceState, changes_since, require_slice_transition
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.chain import append_row, hold_chain
from migration_assets.ledger.definitions import altered_since
from migration_assets.ledger.slices import SliceRecord, read_slices, slice_locks
from migration_assets.ledger.stream import read_stream, stream_lock
from migration_assets.postgres.catalogue import changes_by_leaf
from migration_assets.postgres.sessions import Connected, require_row


@dataclass(frozen=True)
class SignOffState:
    """A quarter's newest sign-off (None if it was never signed) and every reason for which it is void."""

    signed: SignedOff | None
    void: tuple[str, ...]

    @property
    def stands(self) -> bool:
        """Whether the quarter is signed off now."""
        return self.signed is not None and not self.void


@contextmanager
def hold_quarter(base: Connected, spec: TableSpec, quarter: FiscalQuarter) -> Generator[None]:
    """Hold all of the quarter's slices and, shared, the stream: no copy, repair, join or pause runs meanwhile.

    Raises:
        SliceBusyError: Another step works on one of the slices.
        StreamError: Another step works on the stream.
    """
    with (
        slice_locks(base, read_slices(base, spec.relation, quarter)),
        stream_lock(base, spec.relation, shared=True),
    ):
        yield


@dataclass(frozen=True)
class SeenNow:
    """What a look at the legacy and the stream found a moment before a sign-off.

    Attributes:
        package: This program's version.
        legacy_version: The legacy's server's; empty where it could not be asked.
        legacy_table: What the legacy's table is now; None where nobody could look, which is one of the problems then.
        problems: What stops the stream.
    """

    package: str
    legacy_version: str
    legacy_table: TableState | None
    problems: Sequence[str]


def record_sign_off(
    base: Connected,
    spec: TableSpec,
    quarter: FiscalQuarter,
    *,
    approved_by: str,
    note: str,
    max_age: timedelta,
    seen: SeenNow,
    run_id: str | None = None,
) -> SignedOff:
    """Read the facts, decide, and sign in one transaction; the caller holds the quarter.

    Args:
        base: A session on the base.
        spec: The table.
        quarter: The quarter to sign off.
        approved_by: The person who approves.
        note: That person's comment.
        max_age: How old a proof may be.
        seen: What a look at the legacy and the stream has just found.
        run_id: Noted in the ledger.

    Raises:
        SignOffRefusedError: Lists everything that is missing.
        psycopg.errors.SerializationFailure: A slice was changed at this moment by a session that held no lock.
    """
    with _one_snapshot(base):
        # First of all, so that this snapshot contains the chain's newest record.
        hold_chain(base)
        # A sign-off must not be lost in a crash, even on a base that commits asynchronously by default.
        base.execute("SET LOCAL synchronous_commit = on")
        facts = _read_facts(base, spec, quarter, seen)
        row = require_row(base.execute("SELECT clock_timestamp()").fetchone(), "the clock")
        approval = Approval(approved_by.strip(), note, row[0], max_age)
        evidence, sha256 = sign(facts, approval)
        row = base.execute(
            "INSERT INTO migration.sign_offs"
            " (relation, quarter, approved_by, note, evidence, sha256, run_id, signed_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
            [spec.relation, quarter.key, approval.approved_by, note, Jsonb(evidence), sha256, run_id, approval.at],
        ).fetchone()
        number = int(require_row(row, "a new sign-off")[0])
        _sign_slices(base, spec, facts.weeks)
        append_row(base, spec.relation, ChainKind.SIGN_OFF, number)
    return SignedOff(number, spec.relation, quarter, approval.approved_by, note, evidence, sha256, run_id, approval.at)


def _sign_slices(base: Connected, spec: TableSpec, weeks: Sequence[WeekFacts]) -> None:
    for facts in weeks:
        if facts.state in {SliceState.SIGNED_OFF, SliceState.ARCHIVED}:
            continue  # signed before, and unchanged since
        require_slice_transition(facts.state, SliceState.SIGNED_OFF, where=facts.week.key)
        base.execute(
            "UPDATE migration.slices SET state = 'signed_off', updated_at = clock_timestamp()"
            " WHERE relation = %s AND quarter = %s AND week = %s",
            [spec.relation, facts.week.quarter.key, facts.week.name],
        )


def read_sign_off(base: Connected, spec: TableSpec, quarter: FiscalQuarter) -> SignOffState:
    """Return the quarter's newest sign-off and whether it is still valid."""
    with _one_snapshot(base), base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT id, approved_by, note, evidence, sha256, run_id, signed_at FROM migration.sign_offs"
            " WHERE relation = %s AND quarter = %s ORDER BY id DESC LIMIT 1",
            [spec.relation, quarter.key],
        ).fetchone()
        if row is None:
            return SignOffState(None, ())
        if not isinstance(row["evidence"], dict):
            row["evidence"] = {}  # it was edited into another type; its hash shows that
        signed = SignedOff(relation=spec.relation, quarter=quarter, **row)
        return SignOffState(signed, tuple(why_void(signed, read_week_facts(base, spec, quarter))))


@contextmanager
def _one_snapshot(base: Connected) -> Generator[None]:
    with base.transaction():
        base.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def _read_facts(
    base: Connected,
    spec: TableSpec,
    quarter: FiscalQuarter,
    seen: SeenNow,
) -> QuarterFacts:
    weeks = read_week_facts(base, spec, quarter, seen.legacy_table)
    reconciliation = _read_reconciliation(base, spec, quarter, seen.legacy_table)
    markers = {facts.marker for facts in weeks} | {reconciliation.marker if reconciliation else None}
    stream = read_stream(base, spec.relation)
    server = require_row(base.execute("SELECT current_setting('server_version')").fetchone(), "the base's version")
    return QuarterFacts(
        relation=spec.relation,
        quarter=quarter,
        weeks=weeks,
        reconciliation=reconciliation,
        stream=stream
        and StreamFacts(
            stream.publication, stream.slot, stream.subscription, stream.status.value, stream.reason,
            stream.exact_since_marker, stream.exact_since_lsn, stream.exact_since,
        ),
        problems=tuple(seen.problems),
        cuts=_read_cuts(base, spec, [marker for marker in markers if marker is not None]),
        versions=Versions(seen.package, seen.legacy_version, str(server[0]), METHOD),
    )  # fmt: skip


def read_week_facts(
    base: Connected, spec: TableSpec, quarter: FiscalQuarter, legacy_table: TableState | None = None
) -> tuple[WeekFacts, ...]:
    """Return what the ledger holds of the quarter's weeks now, oldest first.

    Without `legacy_table`, the current state of the legacy's table, only alterations of the base's tables are noticed.
    """
    records = read_slices(base, spec.relation, quarter)
    counted = changes_by_leaf(base, spec.table, [record.leaf for record in records])
    altered = altered_since(base, spec, [(r.week, r.leaf, r.definitions) for r in records], legacy_table)
    return tuple(
        WeekFacts(
            record.week, record.leaf, record.lower_bound, record.upper_bound, record.state, record.method,
            record.legacy, record.base, *((record.validated.marker, record.validated.lsn) if record.validated
                                          else (None, None)),
            last_validation(record, counted.get(record.leaf), altered.get(record.week)), record.definitions,
        )
        for record in records
    )  # fmt: skip


def last_validation(record: SliceRecord, changes_now: int | None = None, altered: str | None = None) -> LastValidation:
    """Return what the ledger knows of the slice's last validation.

    Args:
        record: The slice.
        changes_now: The leaf's number in `changes_by_leaf`.
        altered: The week's text in `altered_since`.
    """
    known = record.validated
    if known is None:
        return LastValidation(None, None, record.changed_at, changes_since(None, changes_now), altered)
    return LastValidation(known.at, known.equal, record.changed_at, changes_since(known.changes, changes_now), altered)


def _read_reconciliation(
    base: Connected, spec: TableSpec, quarter: FiscalQuarter, legacy_table: TableState | None
) -> ReconciliationFacts | None:
    with base.cursor(row_factory=class_row(ReconciliationFacts)) as cursor:
        newest = cursor.execute(
            "SELECT r.marker, r.lsn, r.equal, r.duplicate_keys, r.reconciled_at AS at, c.taken_at AS cut_at"
            " FROM migration.reconciliations r LEFT JOIN migration.cuts c USING (relation, marker)"
            " WHERE r.relation = %s AND r.quarter = %s ORDER BY r.id DESC LIMIT 1",
            [spec.relation, quarter.key],
        ).fetchone()
    if newest is None:
        return None
    rows = base.execute(
        "SELECT v.week, s.leaf, v.definitions FROM migration.validations v JOIN migration.slices s"
        " USING (relation, quarter, week) WHERE v.relation = %s AND v.quarter = %s AND v.marker = %s"
        " AND v.purpose = 'reconcile' AND s.state <> 'retired'",
        [spec.relation, quarter.key, newest.marker],
    )
    proven = [(FiscalWeek.parse(f"{quarter.key}|{w}"), leaf, Definitions.from_json(kept)) for w, leaf, kept in rows]
    altered = altered_since(base, spec, proven, legacy_table)
    what = "; ".join(f"{week.name}: {why}" for week, why in sorted(altered.items()))
    return replace(newest, altered=what or None)


def _read_cuts(base: Connected, spec: TableSpec, markers: Sequence[int]) -> tuple[CutFacts, ...]:
    with base.cursor(row_factory=class_row(CutFacts)) as cursor:
        cursor.execute(
            "SELECT marker, lsn, taken_at AS at, tries, writers_held_ms, longest_try_ms, apply_held_ms"
            " FROM migration.cuts WHERE relation = %s AND marker = ANY(%s)",
            [spec.relation, list(markers)],
        )
        return tuple(cursor)
