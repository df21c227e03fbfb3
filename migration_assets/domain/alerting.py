"""When messages about a problem are sent: at once when it is raised or gets worse, later as a reminder, and at its end.

Pure: `advance` turns the open alerts and a new evaluation into the alerts that are now open and the messages due.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.domain.stream_watch import Evaluation, Problem

_TIMES = ("since", "seen_at", "sent_at", "cleared_at")


@dataclass(frozen=True)
class Alert:
    """One problem from when it was first seen to its end; times are by the watcher's clock.

    Attributes:
        sent_at: When the last message was sent; None until a channel accepted one.
        sent_severity: The severity in that message; a higher one is sent at once.
        good_looks: How many consecutive samples did not show the problem.
    """

    code: ProblemCode
    severity: Severity
    what: str
    next_step: str
    since: datetime
    seen_at: datetime
    good_looks: int = 0
    sent_at: datetime | None = None
    sent_severity: Severity | None = None
    cleared_at: datetime | None = None


class Event(StrEnum):
    """Why a message is due."""

    RAISED = "raised"
    WORSE = "worse"
    REMINDER = "still there"
    CLEARED = "cleared"


@dataclass(frozen=True)
class Message:
    """One message about an alert, ready to be sent."""

    event: Event
    alert: Alert
    title: str
    body: str


@dataclass(frozen=True)
class AlertPolicy:
    """How long until a reminder, and after how many good samples in a row an alert ends."""

    realert: timedelta = timedelta(minutes=60)
    clear_after: int = 3


@dataclass(frozen=True)
class Advance:
    """The alerts after a sample: open ones, those that have just ended, and the messages due."""

    open: tuple[Alert, ...]
    cleared: tuple[Alert, ...]
    messages: tuple[Message, ...]


def advance(
    alerts: Iterable[Alert], evaluation: Evaluation, now: datetime, *, relation: str, policy: AlertPolicy
) -> Advance:
    """Combine the open alerts with a new evaluation; `mark_sent` then marks the messages that a channel accepted."""
    before = {alert.code: alert for alert in alerts}
    problems = {problem.code: problem for problem in evaluation.problems}
    remaining: list[Alert] = []
    cleared: list[Alert] = []
    messages: list[Message] = []
    for code in sorted(before.keys() | problems.keys()):
        alert, problem = before.get(code), problems.get(code)
        if problem is not None:
            alert = _seen(alert, problem, now)
            event = _due(alert, now, policy)
            if event:
                messages.append(_message(event, alert, relation, now))
        elif alert is not None and code in evaluation.judged:
            alert = replace(alert, good_looks=alert.good_looks + 1)
            if alert.good_looks >= policy.clear_after:
                alert = replace(alert, cleared_at=now)
                cleared.append(alert)
                if alert.sent_at is not None:
                    messages.append(_message(Event.CLEARED, alert, relation, now))
                continue
        if alert is not None:
            remaining.append(alert)
    return Advance(tuple(remaining), tuple(cleared), tuple(messages))


def _seen(alert: Alert | None, problem: Problem, now: datetime) -> Alert:
    if alert is None:
        return Alert(problem.code, problem.severity, problem.what, problem.next_step, problem.since, now)
    return replace(
        alert, severity=problem.severity, what=problem.what, next_step=problem.next_step, seen_at=now, good_looks=0
    )


def _due(alert: Alert, now: datetime, policy: AlertPolicy) -> Event | None:
    if alert.sent_at is None:
        return Event.RAISED
    if alert.severity is Severity.CRITICAL and alert.sent_severity is Severity.WARNING:
        return Event.WORSE
    return Event.REMINDER if now - alert.sent_at >= policy.realert else None


def mark_sent(alerts: Iterable[Alert], sent: Iterable[Message], now: datetime) -> tuple[Alert, ...]:
    """The alerts, with those whose message was sent marked as sent at `now`."""
    codes = {message.alert.code for message in sent}
    return tuple(
        replace(alert, sent_at=now, sent_severity=_worst(alert)) if alert.code in codes else alert for alert in alerts
    )


def _worst(alert: Alert) -> Severity:
    """The worst severity sent so far: an alert that falls and rises again need not be sent twice as worse."""
    return Severity.CRITICAL if Severity.CRITICAL in {alert.severity, alert.sent_severity} else alert.severity


def _message(event: Event, alert: Alert, relation: str, now: datetime) -> Message:
    name = alert.code.replace("_", " ")
    since = f"Since {alert.since:%Y-%m-%d %H:%M:%S} UTC ({_duration(now - alert.since)})."
    if event is Event.CLEARED:
        title = f"[OK] change stream of {relation}: {name} is over"
        body = f"No longer seen; it was: {alert.what}.\n{since}"
    else:
        again = "" if event is Event.RAISED else f" ({event})"
        title = f"[{alert.severity.upper()}] change stream of {relation}: {name}{again}"
        body = f"{_sentence(alert.what)}\n{since}\nNext: {alert.next_step}."
    return Message(event, alert, title, body)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _duration(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def dump_alerts(alerts: Sequence[Alert]) -> str:
    """The alerts as text for a sensor's cursor, which keeps them while the ledger is unreachable."""
    return json.dumps([
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(alert).items()}
        for alert in alerts
    ])  # fmt: skip


def load_alerts(text: str | None) -> tuple[Alert, ...]:
    """Read what `dump_alerts` wrote; no alerts for an empty text."""
    return tuple(alert_from(entry) for entry in json.loads(text)) if text else ()


def alert_from(stored: Mapping[str, Any]) -> Alert:
    """Build an alert from stored values by name; times may be text."""
    values = dict(stored)
    for name in _TIMES:
        if isinstance(values.get(name), str):
            values[name] = datetime.fromisoformat(values[name])
    values["code"] = ProblemCode(values["code"])
    values["severity"] = Severity(values["severity"])
    values["sent_severity"] = Severity(values["sent_severity"]) if values.get("sent_severity") else None
    return Alert(**values)
