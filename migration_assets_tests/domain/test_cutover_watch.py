"""The rules around a cutover: each seen green, red and silent, and what a cutover does on purpose alarms nobody."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from migration_assets.domain.cutover_rules import CUTOVER_RULES
from migration_assets.domain.samples import (
    DRIFTS,
    CutoverSample,
    Drift,
    HeldSample,
    ProblemCode,
    ReverseSample,
    Severity,
    StreamSample,
    StreamThresholds,
    UnderWay,
)
from migration_assets.domain.stream_watch import Problem, View, evaluate

NOW = datetime(2024, 6, 15, 12, tzinfo=UTC)
C, WARNING, CRITICAL = ProblemCode, Severity.WARNING, Severity.CRITICAL
WELL = ReverseSample(
    "ours_back",
    subscription_exists=True,
    subscription_enabled=True,
    worker_runs=True,
    apply_errors=2,
    slot_exists=True,
    slot_active=True,
    wal_status="reserved",
    retained_wal_bytes=10**6,
    arrived=True,
    lag_seconds=0.1,
)
BASE = CutoverSample(
    in_charge="base", since=NOW - timedelta(days=3), cutover=3, approved_by="Ada", stream_barred=True, accepts=True,
    legacy_accepts=False, reverse=WELL,
)  # fmt: skip
LEGACY = CutoverSample(accepts=True, legacy_accepts=True)
ALIVE, DEAD = UnderWay(4, "cutover", "held", 4711), UnderWay(4, "cutover", "held", None)
ROLLBACK = UnderWay(5, "rollback", "drained", 4712)
# Everything that the change stream's rules alarm about, all at once: what is left of it while the base is in charge.
GONE: dict[str, Any] = {
    "status": "held", "status_seconds": 9e5, "reason": "by cutover 3", "subscription_exists": False,
    "slot_exists": False, "apply_errors": 900, "conflicts": {"update_missing": 9}, "lag_seconds": 9e5,
    "retained_wal_bytes": 10**12, "safe_wal_bytes": 0, "drifts": tuple(Drift(code, "gone") for code in sorted(DRIFTS)),
    "server_changes": (),
}  # fmt: skip


def sample(cutover: CutoverSample | None = BASE, seconds_ago: float = 0.0, **changes: Any) -> StreamSample:
    return StreamSample(
        "public.bookings", NOW - timedelta(seconds=seconds_ago), runway_days=98.0, cutover=cutover, **changes
    )


def reverse(seconds_ago: float = 0.0, **changes: Any) -> StreamSample:
    return sample(replace(BASE, reverse=replace(WELL, **changes)), seconds_ago)


def problems(
    now: StreamSample, *history: StreamSample, raised: dict[ProblemCode, Severity] | None = None
) -> dict[ProblemCode, Problem]:
    found = evaluate(View(now, history or (sample(seconds_ago=60.0),), StreamThresholds(), raised or {})).problems
    return {problem.code: problem for problem in found}


def judge(
    now: StreamSample, *history: StreamSample, raised: dict[ProblemCode, Severity] | None = None
) -> dict[ProblemCode, Severity]:
    return {code: problem.severity for code, problem in problems(now, *history, raised=raised).items()}


def held(seconds: float | None = 5.0, **changes: Any) -> CutoverSample:
    """The legacy is in charge and refuses writes."""
    what = HeldSample("legacy", seconds, "the legacy refuses writes", "`migration-assets release-writes`")
    return replace(LEGACY, accepts=False, legacy_accepts=False, held=what, **changes)


def test_while_the_base_is_in_charge_all_is_judged_and_nothing_of_the_change_stream_is_a_problem() -> None:
    evaluation = evaluate(View(sample(**GONE), (sample(seconds_ago=60.0),)))
    assert evaluation.problems == ()
    assert evaluation.judged == frozenset(ProblemCode)


def test_without_a_cutover_the_same_is_a_heap_of_problems() -> None:
    assert len(judge(sample(LEGACY, **GONE), sample(LEGACY, 60.0, conflicts={}, apply_errors=0))) > 10


def test_before_any_cutover_and_after_a_rollback_nothing_is_said() -> None:
    assert judge(sample(LEGACY)) == {}
    assert judge(sample(replace(LEGACY, since=NOW, cutover=4))) == {}
    assert judge(sample(None)) == {}


RED: list[tuple[ProblemCode, Severity, StreamSample, Sequence[StreamSample]]] = [
    (C.WRITES_HELD, CRITICAL, sample(held()), ()),
    (C.WRITES_HELD, CRITICAL, sample(held(under_way=DEAD)), ()),
    (C.WRITES_HELD, CRITICAL, sample(held(65.1, under_way=ALIVE)), ()),
    (C.WRITES_HELD, CRITICAL, sample(held(None)), ()),
    (C.WRITES_HELD, CRITICAL, sample(replace(BASE, accepts=False, held=HeldSample("base", 1.0, "it", "so"))), ()),
    (C.CUTOVER_UNFINISHED, WARNING, sample(replace(LEGACY, under_way=DEAD)), ()),
    (C.CUTOVER_UNFINISHED, WARNING, sample(replace(BASE, under_way=replace(DEAD, state="switched"))), ()),
    (C.LEGACY_WRITABLE, CRITICAL, sample(replace(BASE, legacy_accepts=True)), ()),
    (C.BASE_LEAF_LOST, CRITICAL, sample(replace(BASE, lost_leaves="FY25-Q2|W05 has no leaf")), ()),
    (C.BASE_UNGUARDED, WARNING, sample(replace(BASE, unguarded="public.t")), ()),
    (C.REVERSE_DOWN, CRITICAL, reverse(subscription_exists=False, subscription_enabled=False), ()),
    (C.REVERSE_DOWN, CRITICAL, reverse(subscription_enabled=False), ()),
    (C.REVERSE_DOWN, WARNING, reverse(arrived=False, worker_runs=False, lag_seconds=5.0), ()),
    (C.REVERSE_DOWN, CRITICAL, reverse(arrived=False, worker_runs=False, lag_seconds=5.0),
     (reverse(60.0, arrived=False, worker_runs=False),)),
    (C.REVERSE_DOWN, WARNING, reverse(arrived=False, lag_seconds=30.1), ()),
    (C.REVERSE_DOWN, CRITICAL, reverse(arrived=False, lag_seconds=300.1), ()),
    (C.REVERSE_DOWN, WARNING, reverse(arrived=None, lag_seconds=None, marker_error="permission denied"), ()),
    (C.REVERSE_SLOT_LOST, CRITICAL, reverse(slot_exists=False, wal_status=None, retained_wal_bytes=None), ()),
    (C.REVERSE_SLOT_LOST, CRITICAL, reverse(wal_status="lost"), ()),
    (C.REVERSE_SLOT_LOST, CRITICAL, reverse(wal_status="unreserved"), ()),
    (C.REVERSE_RETAINED_WAL, WARNING, reverse(retained_wal_bytes=8_000_000_001), ()),
    (C.REVERSE_RETAINED_WAL, CRITICAL, reverse(retained_wal_bytes=12_000_000_001), ()),
    (C.REVERSE_APPLY_ERRORS, WARNING, reverse(apply_errors=3), ()),
    (C.REVERSE_APPLY_ERRORS, WARNING, reverse(apply_errors=1), ()),  # reset in between
]  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "now", "history"), RED, ids=[f"{r[0]}-{n}" for n, r in enumerate(RED)])
def test_a_problem_is_found_with_its_severity_and_nothing_else_is(
    code: ProblemCode, severity: Severity, now: StreamSample, history: Sequence[StreamSample]
) -> None:
    assert judge(now, *history) == {code: severity}


def test_every_code_was_seen_red() -> None:
    assert {red[0] for red in RED} == set(CUTOVER_RULES)


UNKNOWN: list[tuple[ProblemCode, StreamSample]] = [
    (C.WRITES_HELD, sample(replace(LEGACY, accepts=None))),
    (C.WRITES_HELD, sample(replace(held(), changed=True))),
    (C.WRITES_HELD, sample(None)),
    (C.CUTOVER_UNFINISHED, sample(replace(LEGACY, under_way=DEAD, changed=True))),
    (C.LEGACY_WRITABLE, sample(replace(BASE, legacy_accepts=None))),
    (C.LEGACY_WRITABLE, sample(replace(BASE, legacy_accepts=True, under_way=ROLLBACK))),
    (C.REVERSE_DOWN, sample(replace(BASE, reverse=None))),
    (C.REVERSE_DOWN, reverse(subscription_exists=None)),
    (C.REVERSE_DOWN, sample(replace(BASE, reverse=replace(WELL, subscription_enabled=False), under_way=ROLLBACK))),
    (C.REVERSE_SLOT_LOST, reverse(slot_exists=None)),
    (C.REVERSE_RETAINED_WAL, reverse(retained_wal_bytes=None)),
    (C.REVERSE_APPLY_ERRORS, reverse(apply_errors=None)),
]


@pytest.mark.parametrize(("code", "now"), UNKNOWN, ids=[f"{u[0]}-{n}" for n, u in enumerate(UNKNOWN)])
def test_what_cannot_be_seen_is_neither_good_nor_bad(code: ProblemCode, now: StreamSample) -> None:
    evaluation = evaluate(View(now, (sample(seconds_ago=60.0),)))
    assert code not in evaluation.judged
    assert code not in {problem.code for problem in evaluation.problems}


def test_a_living_cutover_may_hold_writes_for_its_timeout_and_a_little() -> None:
    assert judge(sample(held(65.0, under_way=ALIVE))) == {}
    assert judge(sample(held(None, under_way=ALIVE))) == {}
    [problem] = problems(sample(held(66.0, under_way=ALIVE))).values()
    assert "release-writes" in problem.next_step
    assert "release-writes" in problem.next_step
    assert problem.since == NOW - timedelta(seconds=66)


def test_while_a_cutover_works_what_it_does_to_the_stream_is_no_problem_and_what_it_found_stays_open() -> None:
    barred = sample(replace(LEGACY, under_way=ALIVE, stream_barred=True), **GONE)
    assert judge(barred) == {}
    assert C.SLOT_MISSING in evaluate(View(barred)).judged
    before = evaluate(View(sample(replace(LEGACY, under_way=ALIVE), **GONE)))
    assert before.problems == ()
    assert C.SLOT_MISSING not in before.judged


def test_while_the_ledger_changes_during_a_look_nothing_of_the_stream_is_held_against_it() -> None:
    assert judge(sample(replace(LEGACY, changed=True), **GONE)) == {}


def test_what_a_dead_cutover_left_of_the_stream_is_mended_by_releasing_the_writes() -> None:
    found = problems(sample(held(under_way=DEAD, stream_barred=True), status="held", status_seconds=400.0))
    assert set(found) == {C.WRITES_HELD, C.STREAM_STANDING}
    assert "release-writes" in found[C.STREAM_STANDING].next_step
    assert "held" in found[C.STREAM_STANDING].next_step


def test_what_a_dead_rollback_left_of_the_reverse_stream_is_mended_by_releasing_the_writes() -> None:
    left = replace(ROLLBACK, pid=None)
    disabled = replace(BASE, reverse=replace(WELL, subscription_enabled=False), under_way=left)
    assert "release-writes" in problems(sample(disabled))[C.REVERSE_DOWN].next_step


def test_after_a_decommission_nobody_asks_for_the_reverse_stream() -> None:
    gone = replace(WELL, subscription_exists=False, slot_exists=False, apply_errors=99, retained_wal_bytes=10**12)
    closed = replace(BASE, decommissioned=NOW, legacy_accepts=None, reverse=gone)
    assert judge(sample(closed)) == {}
    assert judge(sample(replace(closed, legacy_accepts=True))) == {}
    assert judge(sample(replace(closed, accepts=False, held=HeldSample("base", 1.0, "it", "so")))) == {
        C.WRITES_HELD: CRITICAL
    }


def test_a_legacy_that_a_rollback_opened_is_no_second_side_while_the_base_refuses() -> None:
    base_held = HeldSample("base", 1.0, "it", "so")
    opened = replace(BASE, legacy_accepts=True, accepts=False, held=base_held, under_way=replace(ROLLBACK, pid=None))
    assert judge(sample(opened)) == {C.WRITES_HELD: CRITICAL}


def test_a_base_that_is_away_keeps_nobody_from_seeing_that_the_legacy_refuses_writes() -> None:
    away = replace(held(), in_charge=None)
    assert judge(sample(away, base_error="refused")) == {C.BASE_UNREACHABLE: CRITICAL, C.WRITES_HELD: CRITICAL}
    accepting = sample(CutoverSample(in_charge=None, accepts=True), base_error="refused")
    assert C.WRITES_HELD in evaluate(View(accepting)).judged
    assert C.REVERSE_DOWN not in evaluate(View(accepting)).judged


def test_a_key_that_was_used_again_is_named_where_errors_grow() -> None:
    [problem] = problems(reverse(apply_errors=9), raised={C.REVERSE_APPLY_ERRORS: WARNING}).values()
    assert problem.severity is CRITICAL
    assert "used a key again in another week" in problem.next_step
    assert "SKIP" in problem.next_step


@pytest.mark.parametrize(
    ("lag", "raised", "expected"),
    [(29.0, None, None), (25.0, WARNING, WARNING), (24.0, WARNING, None), (241.0, CRITICAL, CRITICAL)],
)
def test_what_is_raised_stays_until_well_below_its_threshold(
    lag: float, raised: Severity | None, expected: Severity | None
) -> None:
    open_now = {C.REVERSE_DOWN: raised} if raised else None
    assert judge(reverse(lag_seconds=lag), raised=open_now).get(C.REVERSE_DOWN) is expected
    kept = int(lag / 30 * 8e9)
    open_now = {C.REVERSE_RETAINED_WAL: raised} if raised and raised is not CRITICAL else None
    if raised is not CRITICAL:
        found = judge(reverse(retained_wal_bytes=kept), raised=open_now)
        assert found.get(C.REVERSE_RETAINED_WAL) is expected


def test_a_sample_survives_the_ledger_and_another_versions_fields() -> None:
    made = sample(replace(held(under_way=ALIVE), since=NOW, decommissioned=NOW, reverse=WELL))
    stored = made.to_json()
    for part in (stored, stored["cutover"], stored["cutover"]["reverse"], stored["cutover"]["under_way"]):
        part["of_the_future"] = 1
    assert StreamSample.from_json(stored) == made
    del stored["cutover"]
    assert StreamSample.from_json(stored).cutover is None


def test_it_says_who_is_in_charge_since_when() -> None:
    assert BASE.text == "the base is in charge since 2024-06-12 12:00:00 UTC (cutover 3)"
    assert LEGACY.text is None
    assert replace(LEGACY, since=NOW, cutover=4).text == (
        "the legacy is in charge since 2024-06-15 12:00:00 UTC (rollback 4)"
    )
