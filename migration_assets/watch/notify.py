"""Tells people of what happened: sends a text to apprise URLs (Slack, e-mail, PagerDuty, webhooks).

The URLs are secrets and never leave this module.
"""

import logging
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import apprise

from migration_assets.domain.plain_text import for_chat
from migration_assets.runtime import Migration

Kind = Literal["info", "success", "warning", "failure"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_STATUS = re.compile(r"error=(\d{3})\b")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """The result of sending one text to one channel; `channel` is only its place in the list and its scheme."""

    channel: str
    delivered: bool
    error: str | None = None


def send(urls: Sequence[str], title: str, body: str, kind: Kind = "info") -> tuple[Delivery, ...]:
    """Send to every channel in turn; a channel that fails is logged and does not keep the others from being served.

    Markup characters in names that come from others are neutralized.
    """
    title, body = for_chat(title), for_chat(body)
    deliveries: list[Delivery] = []
    for number, url in enumerate(urls, start=1):
        delivery = _send_one(f"{number} ({_scheme(url)})", url, title, body, kind)
        if not delivery.delivered:
            log.error("alert channel %s: %s; not sent: %s", delivery.channel, delivery.error, title)
        deliveries.append(delivery)
    return tuple(deliveries)


def _send_one(channel: str, url: str, title: str, body: str, kind: Kind) -> Delivery:
    with _listening() as heard:
        # Apprise's own type annotations are incomplete.
        sender: Any = apprise.Apprise()
        try:
            with warnings.catch_warnings():
                # The first URL loads all plugins; one of them imports a module that Python 3.13 has removed.
                warnings.filterwarnings("ignore", "'imghdr' is deprecated", DeprecationWarning)
                known = sender.add(url)
            if not known:
                return Delivery(channel, delivered=False, error="apprise does not understand the URL")
            delivered = bool(sender.notify(body=body, title=title, notify_type=apprise.NotifyType(kind)))
        except Exception as error:  # noqa: BLE001 - any of a hundred plugins may fail; their texts may contain the URL
            return Delivery(channel, delivered=False, error=f"apprise failed with {type(error).__name__}")
    return Delivery(channel, delivered, None if delivered else _explain(heard))


def _explain(heard: Sequence[str]) -> str:
    """Return a reason without apprise's own words, since its texts contain hosts, users and tokens."""
    text = "\n".join(heard)
    status = _STATUS.search(text)
    if status:
        return f"refused with status {status.group(1)}"
    return "cannot be reached" if "onnection error" in text else "did not take the message"


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match.group(1).lower() if match else "no scheme"


class _Ear(logging.Handler):
    """Collects what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@contextmanager
def _listening() -> Generator[list[str]]:
    """Collect what apprise logs and keep it out of all logs: its texts and those of urllib3 contain parts of URLs."""
    logger, ear, http = logging.getLogger("apprise"), _Ear(), logging.getLogger("urllib3.connectionpool")
    logger.propagate = False  # permanently
    logger.addHandler(ear)
    http.addFilter(_nothing)
    try:
        yield ear.heard
    finally:
        http.removeFilter(_nothing)
        logger.removeHandler(ear)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def send_failure(migration: Migration, title: str, body: str) -> tuple[Delivery, ...]:
    """Send to every channel; the result is empty if MIGRATION_ALERT_URLS is not set."""
    return send(tuple(url.get_secret_value() for url in migration.settings.alert_urls), title, body, "failure")
