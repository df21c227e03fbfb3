"""Who is told, and when: at once, when it gets worse, after the gap, when it is over; never because nobody looked."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from migration_assets.domain.alerting import (
    Advance,
    Alert,
    AlertPolicy,
    Event,
    advance,
    dump_alerts,
    load_alerts,
    mark_sent,
)
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.domain.stream_watch import Evaluation, Problem

START = datetime(2024, 6, 15, 12, tzinfo=UTC)
POLICY = AlertPolicy(realert=timedelta(minutes=60), clear_after=3)
LAG = ProblemCode.LAG
EVERYTHING = frozenset(ProblemCode)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def lag(severity: Severity = Severity.WARNING, minutes: float = 0, what: str = "41 s behind") -> Problem:
    return Problem(LAG, severity, what, at(minutes), "look at it")


def step(
    alerts: tuple[Alert, ...], minutes: float, *problems: Problem, judged: frozenset[ProblemCode] = EVERYTHING
) -> Advance:
    return advance(alerts, Evaluation(problems, judged), at(minutes), relation="public.bookings", policy=POLICY)


def told(done: Advance, minutes: float) -> tuple[Alert, ...]:
    return mark_sent(done.open, done.messages, at(minutes))


def events(done: Advance) -> list[Event]:
    return [message.event for message in done.messages]


def test_a_problem_is_told_once_and_again_after_the_gap() -> None:
    alerts: tuple[Alert, ...] = ()
    heard: list[tuple[int, Event]] = []
    for minute in range(0, 125, 5):
        done = step(alerts, minute, lag(minutes=minute))
        heard += [(minute, event) for event in events(done)]
        alerts = told(done, minute)
    assert heard == [(0, Event.RAISED), (60, Event.REMINDER), (120, Event.REMINDER)]
    assert [alert.since for alert in alerts] == [START]


def test_what_gets_worse_is_told_at_once_and_only_once() -> None:
    alerts = told(step((), 0, lag()), 0)
    worse = step(alerts, 1, lag(Severity.CRITICAL))
    assert events(worse) == [Event.WORSE]
    alerts = told(worse, 1)
    assert events(step(alerts, 2, lag(Severity.CRITICAL))) == []
    back = step(alerts, 3, lag())
    assert events(back) == []
    assert events(step(told(back, 3), 4, lag(Severity.CRITICAL))) == []


def test_an_alert_ends_after_three_good_looks_in_a_row_and_says_so() -> None:
    alerts = told(step((), 0, lag()), 0)
    for minute in (1, 2):
        alerts = step(alerts, minute).open
    alerts = step(alerts, 3, lag()).open  # not in a row
    for minute in (4, 5):
        done = step(alerts, minute)
        assert (done.messages, done.cleared) == ((), ())
        alerts = done.open
    done = step(alerts, 6)
    assert done.open == ()
    assert done.cleared[0].cleared_at == at(6)
    assert events(done) == [Event.CLEARED]
    assert done.messages[0].title == "[OK] change stream of public.bookings: lag is over"


def test_nothing_ends_because_nobody_could_look() -> None:
    alerts = told(step((), 0, lag()), 0)
    for minute in range(1, 10):
        done = step(alerts, minute, judged=EVERYTHING - {LAG})
        assert done.messages == ()
        alerts = done.open
    assert [alert.code for alert in alerts] == [LAG]


def test_what_nobody_heard_of_is_told_again_and_ends_in_silence() -> None:
    first = step((), 0, lag())
    assert events(step(first.open, 1, lag())) == [Event.RAISED]
    alerts = first.open
    for minute in (1, 2, 3):
        done = step(alerts, minute)
        assert done.messages == ()
        alerts = done.open
    assert alerts == ()


def test_a_problem_that_comes_back_after_its_end_is_a_new_alert() -> None:
    alerts = told(step((), 0, lag()), 0)
    for minute in (1, 2, 3):
        alerts = step(alerts, minute).open
    assert events(step(alerts, 4, lag(minutes=4))) == [Event.RAISED]


def test_several_problems_have_a_message_each() -> None:
    other = replace(lag(), code=ProblemCode.CONFLICTS)
    assert events(step((), 0, lag(), other)) == [Event.RAISED, Event.RAISED]


def test_a_message_says_what_since_when_how_bad_and_what_to_do() -> None:
    alerts = told(step((), 0, lag()), 0)
    [message] = step(alerts, 75, lag(Severity.CRITICAL, 75, "the base is 400 s behind")).messages
    assert message.title == "[CRITICAL] change stream of public.bookings: lag (worse)"
    assert message.body == ("The base is 400 s behind.\nSince 2024-06-15 12:00:00 UTC (1 h 15 min).\nNext: look at it.")


def test_alerts_survive_as_text() -> None:
    alerts = told(step((), 0, lag(), replace(lag(), code=ProblemCode.CONFLICTS)), 0)
    assert load_alerts(dump_alerts(alerts)) == alerts
    assert load_alerts(None) == load_alerts("") == ()
