"""Reads what an evidence pack shows of cutovers, rollbacks and the decommission, from the base alone."""

from datetime import datetime
from typing import cast

from psycopg.rows import dict_row

from migration_assets.domain.cutover_state import CutoverState
from migration_assets.domain.doer import doer_text
from migration_assets.domain.evidence_cutover import CutoverFacts, DecommissionFacts, StepTimes
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.ledger.cutovers import CutoverRecord, read_cutovers
from migration_assets.postgres.sessions import Connected


def read_cutover_facts(base: Connected, relation: str) -> tuple[CutoverFacts, ...]:
    """All of a table, oldest first, those under way included."""
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
    """What cannot be read was not written by us: the chain tells of it."""
    named = _named(timeline)
    found: list[StepTimes] = []
    for state in CutoverState:
        times = _named(named.get(state.value))
        if (started := _moment(times.get("started"))) is not None:
            found.append(StepTimes(state, started, _moment(times.get("finished"))))
    return tuple(sorted(found, key=lambda step: step.started))


def _named(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _moment(written: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(written) if isinstance(written, str) else None
    except ValueError:
        return None
    return moment if moment and moment.tzinfo else None


def read_decommission_facts(base: Connected, relation: str) -> DecommissionFacts | None:
    """How far it got; None where it was never begun."""
    with base.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT approved_by, note, scope, state, started_at, finished_at, watched_since, last_read_at, final,"
            " done_by FROM migration.decommissions WHERE relation = %s",
            [relation],
        ).fetchone()
    if row is None:
        return None
    final = _named(row["final"])
    return DecommissionFacts(
        approved_by=row["approved_by"],
        note=row["note"],
        scope=row["scope"],
        started_at=row["started_at"],
        finished_at=row["finished_at"] if row["state"] == "done" else None,
        watched_since=row["watched_since"],
        last_read_at=row["last_read_at"],
        final=_fingerprint(final.get("total")),
        weeks=len(_named(final.get("weeks"))),
        complete=final.get("marker") is not None,
        done_by=doer_text(row["done_by"]),
    )


def _fingerprint(written: object) -> Fingerprint | None:
    numbers = _named(written)
    try:
        return Fingerprint(*(int(str(numbers[name])) for name in ("rows", "sum_a", "sum_b")))
    except (KeyError, ValueError):
        return None
