"""Each rule seen green, red, and silent where it cannot know; thresholds, their hysteresis, and the strict days."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from migration_assets.domain.cutover_rules import CUTOVER_RULES
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.samples import (
    DRIFTS,
    CutoverSample,
    Drift,
    ProblemCode,
    Severity,
    StreamSample,
    StreamThresholds,
    high_change,
)
from migration_assets.domain.stream_view import minutes_of_room
from migration_assets.domain.stream_watch import NEXT_STEPS, RULES, View, evaluate

NOW = datetime(2024, 6, 15, 12, tzinfo=UTC)
GOOD = StreamSample(
    relation="public.bookings",
    taken_at=NOW,
    status="live",
    status_seconds=86_400.0,
    subscription_exists=True,
    subscription_enabled=True,
    worker_pids=(10,),
    apply_errors=5,
    conflicts={"update_missing": 1, "update_origin_differs": 7},
    slot_exists=True,
    slot_active=True,
    wal_status="reserved",
    safe_wal_bytes=10**10,
    retained_wal_bytes=10**6,
    unconfirmed_bytes=10**5,
    lag_seconds=0.1,
    heartbeat_arrived=True,
    legacy_active_sessions=3,
    drifts=(),
    runway_days=98.0,
    runway_ends="FY25-Q4|W01 has no leaf",
    outside=(),
    server_changes=(),
    foreign_slots={},
    cutover=CutoverSample(accepts=True, legacy_accepts=True),
)


def before(seconds: float = 60.0, **changes: Any) -> StreamSample:
    return replace(GOOD, taken_at=NOW - timedelta(seconds=seconds), **changes)


def judge(
    sample: StreamSample, *history: StreamSample, raised: dict[ProblemCode, Severity] | None = None
) -> dict[ProblemCode, Severity]:
    evaluation = evaluate(View(sample, history or (before(),), StreamThresholds(), raised or {}))
    return {problem.code: problem.severity for problem in evaluation.problems}


def test_a_good_stream_is_judged_by_every_rule_and_none_finds_anything() -> None:
    evaluation = evaluate(View(GOOD, (before(),)))
    assert evaluation.problems == ()
    assert evaluation.judged == frozenset(ProblemCode)


def test_every_code_has_a_rule_and_a_next_step() -> None:
    assert set(RULES) == set(NEXT_STEPS) == set(ProblemCode)


WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
C = ProblemCode
RED: list[tuple[ProblemCode, Severity, dict[str, Any], Sequence[StreamSample]]] = [
    (C.SERVER_CHANGED, CRITICAL, {"server_changes": ("the base went back",)}, ()),
    (C.SERVER_CHANGED, CRITICAL, {"server_changes": ("a standby answers",), "status": "held"}, ()),
    (C.BASE_UNREACHABLE, CRITICAL, {"base_error": "refused"}, ()),
    (C.LEGACY_UNREACHABLE, CRITICAL, {"legacy_error": "too many connections"}, ()),
    (C.SUBSCRIPTION_MISSING, CRITICAL, {"subscription_exists": False, "subscription_enabled": None}, ()),
    (C.SUBSCRIPTION_MISSING, CRITICAL, {"subscription_exists": False, "status": "paused", "status_seconds": 1.0}, ()),
    (C.SUBSCRIPTION_DISABLED, CRITICAL, {"subscription_enabled": False, "worker_pids": ()}, ()),
    (C.WORKER_DOWN, WARNING, {"worker_pids": ()}, ()),
    (C.WORKER_DOWN, CRITICAL, {"worker_pids": ()}, (before(worker_pids=()),)),
    (C.WORKER_DOWN, WARNING, {"slot_active": False, "heartbeat_arrived": False}, ()),
    (C.WORKER_DOWN, WARNING, {"slot_active": False, "heartbeat_arrived": None}, ()),
    (C.WORKER_LOOPING, CRITICAL, {"worker_pids": (1, 2)}, ()),
    (C.WORKER_LOOPING, WARNING, {"worker_pids": (3,)}, (before(60, worker_pids=(1,)), before(30, worker_pids=(2,)))),
    (C.APPLY_ERRORS, WARNING, {"apply_errors": 6}, ()),
    (C.APPLY_ERRORS, WARNING, {"apply_errors": 2}, ()),  # reset in between
    (C.CONFLICTS, CRITICAL, {"conflicts": {"update_missing": 2}}, ()),
    (C.CONFLICTS, CRITICAL, {"conflicts": {"update_deleted": 1}}, ()),  # a counter of a newer version
    (C.SLOT_MISSING, CRITICAL, {"slot_exists": False, "wal_status": None, "retained_wal_bytes": None}, ()),
    (C.SLOT_LOST, CRITICAL, {"wal_status": "lost", "retained_wal_bytes": None}, ()),
    (C.SLOT_AT_RISK, CRITICAL, {"wal_status": "unreserved"}, ()),
    (C.LAG, WARNING, {"lag_seconds": 30.1}, ()),
    (C.LAG, CRITICAL, {"lag_seconds": 300.1, "unconfirmed_bytes": None}, ()),
    (C.HEARTBEAT_FAILED, WARNING, {"heartbeat_error": "permission denied", "lag_seconds": None}, ()),
    (C.RETAINED_WAL, WARNING, {"retained_wal_bytes": 8_000_000_001}, (before(1),)),
    (C.RETAINED_WAL, CRITICAL, {"retained_wal_bytes": 12_000_000_001}, (before(1),)),
    (C.WAL_ROOM, WARNING, {"safe_wal_bytes": 6_000 * 10**6, "retained_wal_bytes": 101 * 10**6}, ()),
    (C.WAL_ROOM, CRITICAL, {"safe_wal_bytes": 2_000 * 10**6, "retained_wal_bytes": 101 * 10**6}, ()),
    *(
        (C.STREAM_STANDING, WARNING, {"status": status, "status_seconds": 301.0}, ())
        for status in ("activating", "joining", "paused", "held")
    ),
    (
        C.FOREIGN_SLOT_STANDS,
        WARNING,
        {"foreign_slots": {"third": "0/1"}},
        (before(200, foreign_slots={"third": "0/1"}), before(100, foreign_slots={"third": "0/1"})),
    ),
    (
        C.FOREIGN_SLOT_STANDS,
        WARNING,
        {"foreign_slots": {"third": "0/1", "well": "0/9"}},
        (before(130, foreign_slots={"third": "0/1", "well": "0/8"}), before(60, foreign_slots=None)),
    ),
    (C.STREAM_ALTERED, WARNING, {"proofs_outlived": "somebody altered the publication by hand"}, ()),
    (C.RUNWAY, WARNING, {"runway_days": 13.0}, ()),
    (C.RUNWAY, WARNING, {"runway_days": 3.5, "status": "held", "status_seconds": 1.0}, ()),
    (C.RUNWAY, CRITICAL, {"runway_days": 3.4}, ()),
    (C.ROWS_OUTSIDE, WARNING, {"outside": ("1 row beyond the last week",)}, ()),
    *((code, CRITICAL, {"drifts": (Drift(code, "altered"),)}, ()) for code in sorted(DRIFTS)),
]


@pytest.mark.parametrize(
    ("code", "severity", "changes", "history"), RED, ids=[f"{r[0]}-{n}" for n, r in enumerate(RED)]
)
def test_a_problem_is_found_with_its_severity_and_nothing_else_is(
    code: ProblemCode, severity: Severity, changes: dict[str, Any], history: Sequence[StreamSample]
) -> None:
    assert judge(replace(GOOD, **changes), *history) == {code: severity}


def test_every_code_was_seen_red() -> None:
    # Those of a cutover: see test_cutover_watch.
    assert {red[0] for red in RED} == set(ProblemCode) - set(CUTOVER_RULES)


UNKNOWN: list[tuple[ProblemCode, dict[str, Any], Sequence[StreamSample]]] = [
    (C.SUBSCRIPTION_DISABLED, {"subscription_enabled": False, "worked_on_by": "backend 1"}, ()),
    (C.SUBSCRIPTION_MISSING, {"subscription_exists": None}, ()),
    (C.WORKER_DOWN, {"worker_pids": None}, ()),
    (C.WORKER_LOOPING, {"worker_pids": None}, ()),
    (C.WORKER_LOOPING, {"worker_pids": (1, 2), "worked_on_by": "backend 1"}, ()),
    (C.APPLY_ERRORS, {"apply_errors": None}, ()),
    (C.CONFLICTS, {"conflicts": None}, ()),
    (C.SLOT_MISSING, {"slot_exists": None}, ()),
    (C.SLOT_LOST, {"slot_exists": None}, ()),
    (C.LAG, {"lag_seconds": None}, ()),
    (C.HEARTBEAT_FAILED, {"legacy_error": "gone"}, ()),
    (C.RETAINED_WAL, {"retained_wal_bytes": None}, ()),
    (C.WAL_ROOM, {}, (before(5),)),
    (C.RUNWAY, {"runway_days": None}, ()),
    *((code, {"drifts": None}, ()) for code in sorted(DRIFTS)),
]


@pytest.mark.parametrize(("code", "changes", "history"), UNKNOWN, ids=[f"{u[0]}-{n}" for n, u in enumerate(UNKNOWN)])
def test_what_cannot_be_seen_is_neither_good_nor_bad(
    code: ProblemCode, changes: dict[str, Any], history: Sequence[StreamSample]
) -> None:
    evaluation = evaluate(View(replace(GOOD, **changes), history or (before(),)))
    assert code not in evaluation.judged
    assert code not in {problem.code for problem in evaluation.problems}


def test_a_base_that_is_away_leaves_only_the_slot_to_be_judged() -> None:
    away = StreamSample("public.bookings", NOW, base_error="refused", slot_exists=True, wal_status="unreserved",
                        retained_wal_bytes=9 * 10**9)  # fmt: skip
    evaluation = evaluate(View(away))
    assert {p.code for p in evaluation.problems} == {C.BASE_UNREACHABLE, C.SLOT_AT_RISK, C.RETAINED_WAL}
    assert evaluation.judged == {
        C.BASE_UNREACHABLE, C.LEGACY_UNREACHABLE, C.SLOT_LOST, C.SLOT_AT_RISK, C.RETAINED_WAL,
    }  # fmt: skip


def test_a_stream_that_stands_on_purpose_is_expected_to_be_disabled_and_behind() -> None:
    paused = replace(GOOD, status="paused", status_seconds=10.0, subscription_enabled=False, worker_pids=(),
                     lag_seconds=900.0)  # fmt: skip
    assert judge(paused) == {}


def test_an_activation_at_work_may_take_its_time_and_a_join_may_not() -> None:
    activating = replace(GOOD, status="activating", status_seconds=9e4, worked_on_by="backend 1", slot_exists=False)
    assert judge(activating) == {}
    assert judge(replace(activating, status="joining", slot_exists=True)) == {C.STREAM_STANDING: WARNING}


def test_a_standing_stream_is_a_problem_since_it_stands() -> None:
    [problem] = evaluate(View(replace(GOOD, status="held", status_seconds=3600.0, reason="lunch"))).problems
    assert problem.since == NOW - timedelta(hours=1)
    assert problem.what == "the stream has been held for 3,600 s (lunch); nobody works on it"


def test_conflicts_that_our_own_copies_cause_are_no_problem() -> None:
    assert judge(replace(GOOD, conflicts={"update_missing": 1, "update_origin_differs": 900})) == {}


def test_workers_that_pauses_ended_do_not_loop() -> None:
    looks = (before(60, worker_pids=(1,)), before(30, worker_pids=(2,)))
    assert judge(replace(GOOD, worker_pids=(3,), status_seconds=20.0), *looks) == {}


def test_apply_errors_that_go_on_are_critical() -> None:
    raised = {C.APPLY_ERRORS: WARNING}
    assert judge(replace(GOOD, apply_errors=9), raised=raised) == {C.APPLY_ERRORS: CRITICAL}


@pytest.mark.parametrize(
    ("lag", "raised", "expected"),
    [
        (29.0, None, None),
        (30.0, None, None),
        (25.0, WARNING, WARNING),
        (24.0, WARNING, None),
        (299.0, WARNING, WARNING),
        (241.0, CRITICAL, CRITICAL),
        (240.0, CRITICAL, WARNING),
        (25.0, CRITICAL, WARNING),
        (24.0, CRITICAL, None),
        (301.0, WARNING, CRITICAL),
    ],
)
def test_what_is_raised_stays_until_well_below_its_threshold(
    lag: float, raised: Severity | None, expected: Severity | None
) -> None:
    found = judge(replace(GOOD, lag_seconds=lag), raised={C.LAG: raised} if raised else None)
    assert found.get(C.LAG) is expected


def test_room_is_told_by_growth_and_by_the_disk_where_there_is_no_limit() -> None:
    history = (before(60, retained_wal_bytes=0),)
    grown = replace(GOOD, retained_wal_bytes=60 * 10**6, safe_wal_bytes=120 * 10**6)
    assert minutes_of_room(grown, history, None) == pytest.approx(2.0)
    unlimited = replace(grown, safe_wal_bytes=None)
    assert minutes_of_room(unlimited, history, None) is None
    assert minutes_of_room(unlimited, history, 0.12) == pytest.approx(1.0)
    assert minutes_of_room(unlimited, history, 0.01) == 0.0
    assert minutes_of_room(replace(grown, retained_wal_bytes=0), history, None) == float("inf")
    assert minutes_of_room(grown, (before(3600, retained_wal_bytes=0),), None) is None


def test_room_stays_raised_until_well_above_its_threshold() -> None:
    # 1 MB a second: 8,400 MB are 140 minutes, between 120 and 120 / 0.8.
    sample = replace(GOOD, safe_wal_bytes=8_400 * 10**6, retained_wal_bytes=61 * 10**6)
    assert judge(sample) == {}
    assert judge(sample, raised={C.WAL_ROOM: WARNING}) == {C.WAL_ROOM: WARNING}


def test_a_strict_day_divides_the_limits_and_wants_more_room() -> None:
    strict = StreamThresholds().stricter(2.0)
    assert (strict.lag_warning_seconds, strict.lag_critical_seconds) == (15.0, 150.0)
    assert (strict.retained_wal_warning_gb, strict.wal_room_warning_minutes) == (4.0, 240.0)
    assert evaluate(View(replace(GOOD, lag_seconds=20.0), (), strict)).problems[0].code is C.LAG


@pytest.mark.parametrize(
    ("day", "kind"),
    [
        (date(2024, 6, 28), None),
        (date(2024, 6, 29), "quarter end"),
        (date(2024, 6, 30), "quarter end"),
        (date(2024, 7, 2), "quarter end"),
        (date(2024, 7, 3), None),
        (date(2024, 5, 30), "month end"),
        (date(2024, 6, 2), "month end"),
        (date(2024, 2, 28), "month end"),
        (date(2023, 2, 26), None),
        (date(2024, 12, 31), "quarter end"),
    ],
)
def test_the_days_around_the_end_of_a_month_or_quarter_are_known(day: date, kind: str | None) -> None:
    assert high_change(day, FiscalCalendar(), 2) == kind
    assert high_change(day, FiscalCalendar(), 0) is None


def test_which_months_end_a_quarter_is_the_calendars_affair() -> None:
    assert high_change(date(2024, 6, 30), FiscalCalendar(start_month=2), 1) == "month end"
    assert high_change(date(2024, 7, 31), FiscalCalendar(start_month=2), 1) == "quarter end"


def test_a_sample_survives_the_ledger_and_another_versions_fields() -> None:
    sample = replace(GOOD, drifts=(Drift(C.COLUMNS_DIFFER, "colour"),))
    stored = sample.to_json()
    assert StreamSample.from_json({**stored, "of_the_future": 1}) == sample
    assert isinstance(stored["taken_at"], str)


def test_the_runway_is_the_same_on_strict_days_and_says_which_week_it_ends_with() -> None:
    strict = StreamThresholds().stricter(2.0)
    [problem] = evaluate(View(replace(GOOD, runway_days=9.0), (), strict)).problems
    assert (problem.code, problem.severity) == (C.RUNWAY, WARNING)
    assert problem.what == "the runway is 9.0 days of 14: then FY25-Q4|W01 has no leaf"
