"""What the page about the whole migration shows, read from the base alone; it makes no side do anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from migration_assets.cutover.observing import slot_of_reverse
from migration_assets.cutover.reverse import reverse_names
from migration_assets.domain.alerting import Alert
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.domain.samples import ReverseSample
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.charge import CutoverFacts, read_cutover_facts
from migration_assets.ledger.definitions import altered_since
from migration_assets.ledger.samples import (
    AgedSample,
    latest_sample,
    open_alerts,
    read_samples,
)
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.ledger.stream import StreamRecord, names_of, read_stream
from migration_assets.postgres.activity import Activity, current_activity
from migration_assets.postgres.catalogue import changes_by_leaf
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.stream.subscription import Worker, apply_worker

_SAMPLES = 200
_CUTS = 100


@dataclass(frozen=True)
class PastCut:
    """One cut; milliseconds as in the ledger, `apply_held_ms` is None while the stream still rests at it."""

    marker: int
    kind: str
    purpose: str
    tries: int
    writers_held_ms: float
    longest_try_ms: float
    reached_ms: float
    apply_held_ms: float | None
    taken_at: datetime


@dataclass(frozen=True)
class CutCosts:
    """What the last cuts cost, in milliseconds; `worst_try_ms` includes failed tries."""

    cuts: int
    held_p50: float
    held_p99: float
    held_max: float
    worst_try_ms: float
    since: datetime


@dataclass(frozen=True)
class Signature:
    """A quarter's newest sign-off; whether it is still valid shows in the states of the slices."""

    approved_by: str
    signed_at: datetime


@dataclass(frozen=True)
class Overview:
    """One look. `now` is the base's clock, `changes` are by leaf, `lags` and `cuts` are the last ones, oldest first.

    `altered` is what was done to tables since they were proven, as far as the base can tell. `reverse` is what the base
    alone knows of the reverse stream while the base is in charge.
    """

    relation: str
    now: datetime
    slices: tuple[SliceRecord, ...]
    activity: Mapping[FiscalWeek, Activity]
    changes: Mapping[str, int]
    altered: Mapping[FiscalWeek, str]
    signatures: Mapping[FiscalQuarter, Signature]
    stream: StreamRecord | None
    worker: Worker | None
    latest: AgedSample | None
    lags: tuple[tuple[datetime, float | None], ...]
    alerts: tuple[Alert, ...]
    cuts: tuple[PastCut, ...]
    cutover: CutoverFacts
    reverse: ReverseSample | None

    @property
    def costs(self) -> CutCosts | None:
        """The costs of all cuts in `cuts`; None if there are none."""
        if not self.cuts:
            return None
        held = sorted(cut.writers_held_ms for cut in self.cuts)
        return CutCosts(
            len(held),
            quantile(held, 0.50),
            quantile(held, 0.99),
            held[-1],
            max(cut.longest_try_ms for cut in self.cuts),
            min(cut.taken_at for cut in self.cuts),
        )


def quantile(ordered: Sequence[float], part: float) -> float:
    """Return the smallest of the ascending values that at least this share of them does not exceed."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def read_overview(base: Connected, spec: TableSpec) -> Overview:
    """Look once; the ledger must exist.

    Raises:
        psycopg.OperationalError: The base was lost.
    """
    relation = spec.relation
    slices = read_slices(base, relation)
    stream = read_stream(base, relation)
    facts = read_cutover_facts(base, relation)
    follows = stream is not None and facts.in_charge == "base" and facts.decommissioned is None
    return Overview(
        relation=relation,
        now=require_row(base.execute("SELECT clock_timestamp()").fetchone(), "the clock")[0],
        slices=tuple(slices),
        activity=current_activity(base),
        changes=changes_by_leaf(base, spec.table, [record.leaf for record in slices]),
        altered=altered_since(base, spec, [(one.week, one.leaf, one.definitions) for one in slices], None),
        signatures=_signatures(base, relation),
        stream=stream,
        worker=apply_worker(base, stream.subscription) if stream else None,
        latest=latest_sample(base, relation),
        lags=tuple((sample.taken_at, sample.seconds_behind) for sample in read_samples(base, relation, limit=_SAMPLES)),
        alerts=open_alerts(base, relation),
        cuts=_cuts(base, relation),
        cutover=facts,
        reverse=slot_of_reverse(base, reverse_names(names_of(stream))) if stream is not None and follows else None,
    )


def _signatures(base: Connected, relation: str) -> dict[FiscalQuarter, Signature]:
    rows = base.execute(
        "SELECT DISTINCT ON (quarter) quarter, approved_by, signed_at FROM migration.sign_offs WHERE relation = %s"
        " ORDER BY quarter, id DESC",
        [relation],
    )
    return {FiscalQuarter.parse(quarter): Signature(str(who), at) for quarter, who, at in rows}


def _cuts(base: Connected, relation: str) -> tuple[PastCut, ...]:
    with base.cursor(row_factory=class_row(PastCut)) as cursor:
        cursor.execute(
            "SELECT marker, kind, purpose, tries, writers_held_ms, longest_try_ms, reached_ms, apply_held_ms, taken_at"
            " FROM migration.cuts WHERE relation = %s ORDER BY taken_at DESC LIMIT %s",
            [relation, _CUTS],
        )
        return tuple(reversed(cursor.fetchall()))
