"""Whether a stream is well: every rule on one look, and for each problem what to do next. Pure.

`alerting` decides who is told of it, and when.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from migration_assets.domain.cutover_rules import CUTOVER_STEPS
from migration_assets.domain.schema_name import renamed
from migration_assets.domain.stream_rules import RULES, Unknown, View
from migration_assets.domain.stream_sample import RECOVER, ProblemCode, StreamSample
from migration_assets.domain.stream_thresholds import Severity

_RESUME = "run `migration-assets stream resume`"
_REBUILD = "materialize change_stream with rebuild set: a new slot, and every week trued up against it"
_TO_FIT = "; what had changed in between is found by validated_slice and mended by repair_slices"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in figures, since when, and what to do."""

    code: ProblemCode
    severity: Severity
    what: str
    since: datetime
    next_step: str


@dataclass(frozen=True)
class Evaluation:
    """The problems, and every code that could be judged: of the others nothing is known."""

    problems: tuple[Problem, ...]
    judged: frozenset[ProblemCode]


def evaluate(view: View) -> Evaluation:
    """Every rule on one view."""
    problems: list[Problem] = []
    judged: set[ProblemCode] = set()
    for code, rule in RULES.items():
        verdict = rule(view)
        if isinstance(verdict, Unknown):
            continue
        judged.add(code)
        if verdict is not None:
            severity, what, *own_step = verdict
            next_step = own_step[0] if own_step else renamed(NEXT_STEPS[code], view.own_schema)
            problems.append(Problem(code, severity, what, _since(code, view.sample), next_step))
    return Evaluation(tuple(problems), frozenset(judged))


def _since(code: ProblemCode, sample: StreamSample) -> datetime:
    """When it was seen first, or when it began where that is known."""
    seconds: float | None = 0.0
    if code is ProblemCode.STREAM_STANDING:
        seconds = sample.status_seconds
    if code is ProblemCode.WRITES_HELD and sample.cutover is not None and sample.cutover.held is not None:
        seconds = sample.cutover.held.seconds
    return sample.taken_at - timedelta(seconds=seconds or 0.0)


NEXT_STEPS: Mapping[ProblemCode, str] = {
    ProblemCode.BASE_UNREACHABLE: "bring the base back: until then the legacy keeps all WAL for the slot; while the"
    " base is in charge nobody can write. Where it answers, `migration-assets preflight` says what is wrong there",
    ProblemCode.LEGACY_UNREACHABLE: "bring the legacy back, or correct the role, password or connection limit named"
    " here; the stream goes on by itself",
    ProblemCode.SUBSCRIPTION_MISSING: _REBUILD,
    ProblemCode.SUBSCRIPTION_DISABLED: _RESUME,
    ProblemCode.SUBSCRIPTION_ALTERED: "set it back with ALTER SUBSCRIPTION, or " + _REBUILD,
    ProblemCode.STREAM_ALTERED: "ask who did that and why: changes may have been skipped. Materialize validated_slice"
    " for every week under CDC, and repair_slices where one differs. To stop the stream for a while use"
    " `migration-assets stream pause` and `stream resume`",
    ProblemCode.WORKER_DOWN: "read the base's server log for the worker's error; see that the base's server reaches the"
    " legacy with the subscription's role, and that worker slots are free",
    ProblemCode.WORKER_LOOPING: "read the base's server log: the worker ends with the same error again and again",
    ProblemCode.APPLY_ERRORS: "read the base's server log for the error and mend its cause; never use SKIP, which drops"
    " the whole transaction",
    ProblemCode.CONFLICTS: "find who writes to the base besides the stream; materialize validated_slice for every week"
    " under CDC, and repair_slices where one differs",
    ProblemCode.SLOT_MISSING: _REBUILD,
    ProblemCode.SLOT_LOST: _REBUILD + "; raise max_slot_wal_keep_size first",
    ProblemCode.SLOT_AT_RISK: "raise max_slot_wal_keep_size on the legacy now (a reload is enough), then let the base"
    " catch up",
    ProblemCode.RETAINED_WAL: "see why the base lags; mind the legacy's disk, and raise MIGRATION_THROTTLE_* or pause"
    " bulk copies",
    ProblemCode.WAL_ROOM: "let the base catch up (pause bulk copies), or raise max_slot_wal_keep_size while the disk"
    " allows it",
    ProblemCode.LAG: "look for locks on the base's leaves, for long transactions on the legacy, and for bulk copies,"
    " which MIGRATION_THROTTLE_LAG_SECONDS slows down",
    ProblemCode.HEARTBEAT_FAILED: "grant our role USAGE on schema migration and its sequence, and SELECT, INSERT and"
    " DELETE on migration.markers, on the legacy",
    ProblemCode.STREAM_STANDING: _RESUME + ", unless the step that holds it is still at work",
    ProblemCode.PUBLICATION_MISSING: _REBUILD,
    ProblemCode.PUBLICATION_ALTERED: _REBUILD + ": changes made meanwhile may not have been sent",
    ProblemCode.IDENTITY_ALTERED: "ALTER TABLE … REPLICA IDENTITY FULL on the legacy at once: its updates and deletes"
    " fail or arrive broken" + _TO_FIT,
    ProblemCode.GUARD_MISSING: "run `migration-assets stream resume`, which makes the guard again, and validate: a"
    " TRUNCATE would not have reached the base",
    ProblemCode.MARKER_KEY_MISSING: "ALTER TABLE migration.markers ADD PRIMARY KEY (relation, id), on the base: without"
    " it the apply worker waits at no marker, and there is no cut",
    ProblemCode.COLUMNS_DIFFER: "run the statements named here, or make the same change on the base's table; then the"
    " stream goes on" + _TO_FIT,
    ProblemCode.RIGHTS_MISSING: "grant the rights named here again; the stream then goes on by itself",
    ProblemCode.LEAF_MISSING: "run the statements named here where nobody wrote to what was detached, and the stream"
    " goes on by itself; for what is gone materialize quarter_partitions for its quarter, then change_stream with"
    " rebuild set, which brings every row back",
    ProblemCode.UPDATES_REFUSED: "run the statements named here at once, on that side: until then its changes fail",
    ProblemCode.FOREIGN_SLOT_STANDS: "see that its subscriber has the tables that `migration-assets preflight` names"
    " at foreign_publication, and read its server log: until then the legacy keeps WAL for it without end",
    ProblemCode.ROWS_OUTSIDE: "open their quarters and bring them under CDC (materialize quarter_partitions,"
    " migrated_slice, change_stream), or correct the rows; a week that left the base comes back (`migration-assets"
    " restore`), joins (materialize change_stream), and is archived again",
    ProblemCode.RUNWAY: "see that the sensor quarter_opener runs and what its last tick says; or materialize"
    " quarter_partitions and change_stream for the quarter named here",
    ProblemCode.SERVER_CHANGED: RECOVER,
    **CUTOVER_STEPS,
}
