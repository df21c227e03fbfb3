"""Reads what an evidence pack shows, from the base alone and at one moment. No row of the table is ever read."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from psycopg.rows import dict_row

from migration_assets.domain.evidence_chain import doer_text, head_of
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.sign_off_evidence import SignedOff, why_void
from migration_assets.domain.states import CutoverState
from migration_assets.domain.table_spec import TableSpec
from migration_assets.evidence.pack import (
    ArchiveFacts,
    CutoverFacts,
    DecommissionFacts,
    DepartureFacts,
    HoldCosts,
    PackFacts,
    QuarterEvidence,
    Reading,
    ReconciliationRecord,
    SignatureFacts,
    StepTimes,
    WeekEvidence,
)
from migration_assets.ledger.archives import ArchiveRecord, read_archives
from migration_assets.ledger.chain import verify_chain
from migration_assets.ledger.cutovers import CutoverRecord, read_cutovers
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.proof.sign_offs import read_week_facts


def read_cutover_facts(base: Connected, relation: str) -> tuple[CutoverFacts, ...]:
    """Return all cutovers and rollbacks of a table, oldest first, including one under way."""
    return tuple(map(_facts, read_cutovers(base, relation)))


def _facts(record: CutoverRecord) -> CutoverFacts:
    return CutoverFacts(
        id=record.id,
        kind=record.kind,
        rehearse=record.rehearse,
        approved_by=record.approved_by,
        outcome=record.outcome,
        started_at=record.started_at,
        finished_at=record.finished_at,
        held_at=record.held_at,
        opened_at=record.opened_at,
        released_at=record.released_at,
        downtime_ms=record.downtime_ms,
        compared_weeks=record.compared_weeks,
        compared_rows=record.compared_rows,
        error=record.error,
        steps=_steps(record.timeline),
        done_by=doer_text(record.done_by),
    )


def _steps(timeline: object) -> tuple[StepTimes, ...]:
    """Return the steps of a timeline. What cannot be parsed was not written by us; chain verification reports it."""
    named = _as_object(timeline)
    found: list[StepTimes] = []
    for state in CutoverState:
        times = _as_object(named.get(state.value))
        if (started := _moment(times.get("started"))) is not None:
            found.append(StepTimes(state, started, _moment(times.get("finished"))))
    return tuple(sorted(found, key=lambda step: step.started))


def _as_object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _moment(written: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(written) if isinstance(written, str) else None
    except ValueError:
        return None
    return moment if moment and moment.tzinfo else None


def read_decommission_facts(base: Connected, relation: str) -> DecommissionFacts | None:
    """Return how far the decommission got; None where it was never begun."""
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT approved_by, note, scope, state, started_at, finished_at, watched_since, last_read_at, final,"
            " done_by FROM migration.decommissions WHERE relation = %s",
            [relation],
        ).fetchone()
    if row is None:
        return None
    final = _as_object(row["final"])
    return DecommissionFacts(
        approved_by=row["approved_by"],
        note=row["note"],
        scope=row["scope"],
        started_at=row["started_at"],
        finished_at=row["finished_at"] if row["state"] == "done" else None,
        watched_since=row["watched_since"],
        last_read_at=row["last_read_at"],
        final=_known_fingerprint(final.get("total")),
        weeks=len(_as_object(final.get("weeks"))),
        complete=final.get("marker") is not None,
        done_by=doer_text(row["done_by"]),
    )


def _known_fingerprint(written: object) -> Fingerprint | None:
    numbers = _as_object(written)
    try:
        return Fingerprint(*(int(str(numbers[name])) for name in ("rows", "sum_a", "sum_b")))
    except (KeyError, ValueError):
        return None


# A plot shows no more points than a page is wide. Each point is the worst value of its period.
_POINTS = 300


def read_pack_facts(
    base: Connected,
    spec: TableSpec,
    quarter: FiscalQuarter | None,
    *,
    held: Sequence[FiscalQuarter] | None,
    time_zone: str,
    package: str,
) -> PackFacts:
    """Return the facts of one quarter, or of all that the ledger knows.

    Args:
        base: In a REPEATABLE READ transaction; the chain has begun.
        spec: The table.
        quarter: The only quarter to read; None for all.
        held: Quarters of which the legacy holds rows, or None where it was not asked.
        time_zone: Time zone of the fiscal calendar.
        package: Version of this program.
    """
    relation = spec.relation
    slices = read_slices(base, relation, quarter)
    quarters = sorted({record.week.quarter for record in slices})
    records, found = verify_chain(base, relation)
    head = head_of(records)
    if head is None:
        raise ValueError("the chain has not begun")
    server, ledger, now = require_row(
        base.execute(
            "SELECT current_setting('server_version'), (SELECT max(version) FROM migration.schema_versions),"
            " clock_timestamp()"
        ).fetchone(),
        "the versions",
    )
    begun = min((record.copied_at for record in slices if record.copied_at), default=None) if quarter else None
    return PackFacts(
        relation=relation,
        control_column=spec.control_column,
        time_zone=time_zone,
        quarter=quarter,
        written_at=now,
        versions={"migration_assets": package, "ledger": str(ledger), "new database (PostgreSQL)": str(server)},
        quarters=tuple(_quarter(base, spec, one, slices) for one in quarters),
        held=None if held is None else tuple(held),
        lags=_lags(base, relation, begun),
        holds=_holds(base, relation, quarter),
        costs=_costs(base, relation, quarter),
        head=head,
        breaks=found,
        cutovers=read_cutover_facts(base, relation),
        decommission=read_decommission_facts(base, relation),
    )


def _quarter(
    base: Connected, spec: TableSpec, quarter: FiscalQuarter, slices: Sequence[SliceRecord]
) -> QuarterEvidence:
    signed = _signed(base, spec.relation, quarter)
    void = tuple(why_void(signed[-1], read_week_facts(base, spec, quarter))) if signed else ()
    proven = _as_signed(signed[-1]) if signed and not void else {}
    counts = _counts(base, spec.relation, quarter)
    archives = {record.week: record for record in read_archives(base, spec.relation, quarter)}
    departures = _departures(base, spec.relation, quarter)
    weeks: list[WeekEvidence] = []
    for record in (one for one in slices if one.week.quarter == quarter):
        copied, known = record.copied, record.validated
        now = (record.legacy, record.base, known.at if known else None, known.marker if known else None)
        legacy, there, at, marker = proven.get(record.week, now)
        comparisons, differing, repairs = counts.get(record.week.name, (0, 0, 0))
        weeks.append(
            WeekEvidence(
                week=record.week,
                lower_bound=record.lower_bound,
                upper_bound=record.upper_bound,
                state=record.state.value,
                legacy=legacy,
                base=there,
                compared_at=at,
                marker=marker,
                copied_at=record.copied_at,
                copy_seconds=copied.seconds.get("total") if copied else None,
                copy_bytes=copied.table_bytes if copied else None,
                comparisons=comparisons,
                differing=differing,
                repairs=repairs,
                archive=_archive(archives.get(record.week)),
                departure=departures.get(record.week.name),
            )
        )
    doers = base.execute(
        "SELECT id, done_by FROM migration.sign_offs WHERE relation = %s AND quarter = %s", [spec.relation, quarter.key]
    )
    done_by = {number: doer_text(noted) for number, noted in doers}
    signatures = tuple(replace(_signature(one), done_by=done_by.get(one.id, "")) for one in signed)
    return QuarterEvidence(quarter, tuple(weeks), signatures, void, _reconciliations(base, spec.relation, quarter))


def _archive(record: ArchiveRecord | None) -> ArchiveFacts | None:
    return record and ArchiveFacts(
        _bare(record.location), record.native.rows, record.portable.checksum, record.files, record.bytes,
        record.manifest_sha256, record.archived_at, record.verified_at, record.verified_equal,
    )  # fmt: skip


def _signed(base: Connected, relation: str, quarter: FiscalQuarter) -> list[SignedOff]:
    with base.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT id, approved_by, note, evidence, sha256, run_id, signed_at FROM migration.sign_offs"
            " WHERE relation = %s AND quarter = %s ORDER BY id",
            [relation, quarter.key],
        )
        rows = cursor.fetchall()
    for row in rows:
        if not isinstance(row["evidence"], dict):
            row["evidence"] = {}  # it was edited into something else, which its hash reveals
    return [SignedOff(relation=relation, quarter=quarter, **row) for row in rows]


def _signature(signed: SignedOff) -> SignatureFacts:
    age: object = signed.evidence.get("proofs_not_older_than_us")
    versions: object = signed.evidence.get("versions")
    named = cast("dict[object, object]", versions) if isinstance(versions, dict) else {}
    return SignatureFacts(
        signed.id,
        signed.approved_by,
        signed.note,
        signed.signed_at,
        signed.sha256,
        timedelta(microseconds=age) if isinstance(age, int) else None,
        {str(name): str(value) for name, value in named.items()},
    )


_Proof = tuple[Fingerprint | None, Fingerprint | None, datetime | None, int | None]


def _as_signed(signed: SignedOff) -> dict[FiscalWeek, _Proof]:
    """Return what the signed evidence says of each week; its hash was verified, so that it is what `sign` wrote."""
    return {
        FiscalWeek.parse(week["week"]): (
            _fingerprint(week["legacy"]),
            _fingerprint(week["base"]),
            datetime.fromisoformat(week["validated_at"]) if week["validated_at"] else None,
            week["marker"],
        )
        for week in signed.evidence["weeks"]
    }


def _fingerprint(written: dict[str, Any] | None) -> Fingerprint | None:
    return None if written is None else Fingerprint(written["rows"], int(written["sum_a"]), int(written["sum_b"]))


def _counts(base: Connected, relation: str, quarter: FiscalQuarter) -> dict[str, tuple[int, int, int]]:
    rows = base.execute(
        "SELECT week, sum(compared)::bigint, sum(differing)::bigint, sum(repaired)::bigint FROM ("
        " SELECT week, 1 AS compared, (NOT equal)::int AS differing, 0 AS repaired FROM migration.validations"
        "  WHERE relation = %(relation)s AND quarter = %(quarter)s"
        " UNION ALL SELECT week, 0, 0, 1 FROM migration.repairs"
        "  WHERE relation = %(relation)s AND quarter = %(quarter)s AND side = 'base' AND undone_at IS NULL) AS each"
        " GROUP BY week",
        {"relation": relation, "quarter": quarter.key},
    )
    return {week: (compared, differing, repaired) for week, compared, differing, repaired in rows}


def _departures(base: Connected, relation: str, quarter: FiscalQuarter) -> dict[str, DepartureFacts]:
    rows = base.execute(
        "SELECT DISTINCT ON (week) week, step, coalesce(returned_at, dropped_at, quarantined_at, begun_at)"
        " FROM migration.retirements WHERE relation = %s AND quarter = %s ORDER BY week, id DESC",
        [relation, quarter.key],
    )
    return {week: DepartureFacts(step, at) for week, step, at in rows}


def _reconciliations(base: Connected, relation: str, quarter: FiscalQuarter) -> tuple[ReconciliationRecord, ...]:
    rows = base.execute(
        "SELECT marker, equal, duplicate_keys, reconciled_at FROM migration.reconciliations"
        " WHERE relation = %s AND quarter = %s ORDER BY id",
        [relation, quarter.key],
    )
    return tuple(ReconciliationRecord(*row) for row in rows)


def _lags(base: Connected, relation: str, begun: datetime | None) -> tuple[Reading, ...]:
    rows = base.execute(
        "SELECT min(taken_at) AS at, max(lag_seconds) FROM ("
        " SELECT taken_at, lag_seconds, ntile(%s) OVER (ORDER BY taken_at) AS part FROM migration.stream_samples"
        " WHERE relation = %s AND (%s::timestamptz IS NULL OR taken_at >= %s)) AS each GROUP BY part ORDER BY at",
        [_POINTS, relation, begun, begun],
    )
    return tuple(Reading(*row) for row in rows)


# A cut belongs to a quarter if it was taken for it or for one of its weeks. Writers waited for the longest attempt,
# even if that attempt failed.
def _holds(base: Connected, relation: str, quarter: FiscalQuarter | None) -> tuple[Reading, ...]:
    rows = base.execute(
        "SELECT min(taken_at) AS at, max(held) FROM ("
        " SELECT taken_at, greatest(writers_held_ms, longest_try_ms) AS held,"
        " ntile(%s) OVER (ORDER BY taken_at) AS part FROM migration.cuts"
        " WHERE relation = %s AND starts_with(purpose, %s)) AS each GROUP BY part ORDER BY at",
        [_POINTS, relation, quarter.key if quarter else ""],
    )
    return tuple(Reading(*row) for row in rows)


def _costs(base: Connected, relation: str, quarter: FiscalQuarter | None) -> HoldCosts | None:
    row = base.execute(
        "SELECT count(*), percentile_disc(0.5) WITHIN GROUP (ORDER BY held),"
        " percentile_disc(0.99) WITHIN GROUP (ORDER BY held), max(held)"
        " FROM (SELECT greatest(writers_held_ms, longest_try_ms) AS held FROM migration.cuts"
        " WHERE relation = %s AND starts_with(purpose, %s)) AS each",
        [relation, quarter.key if quarter else ""],
    ).fetchone()
    cuts, *figures = require_row(row, "the cuts")
    return HoldCosts(cuts, *figures) if cuts else None


def _bare(location: str) -> str:
    """Return the location without user, password and query, whatever the ledger has."""
    parts = urlsplit(location)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
