"""Texts reach a real server through apprise; a channel that fails is reported, and never by its URL."""

import logging
import socket
from collections.abc import Generator

import pytest

from migration_assets.watch.notify import Delivery, send
from migration_assets_tests.watch.webhook import Webhook, webhook


@pytest.fixture
def hook() -> Generator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture
def refusing() -> Generator[str]:
    """A URL with secrets in it, at a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"json://user:s3cr3t@127.0.0.1:{taken.getsockname()[1]}/t0ken"


def test_a_text_arrives_with_title_body_and_kind(hook: Webhook) -> None:
    assert send([hook.url()], "[WARNING] lag", "Since noon.\nNext: look", "warning") == (Delivery("1 (json)", True),)
    [message] = hook.received
    assert (message["title"], message["message"], message["type"]) == (
        "[WARNING] lag",
        "Since noon.\nNext: look",
        "warning",
    )


def test_a_channel_that_fails_keeps_no_other_from_being_told(hook: Webhook, refusing: str) -> None:
    deliveries = send([refusing, "nonsense", "nosuchthing://s3cr3t", hook.url()], "title", "body", "failure")
    assert [delivery.delivered for delivery in deliveries] == [False, False, False, True]
    assert [delivery.channel for delivery in deliveries] == ["1 (json)", "2 (no scheme)", "3 (nosuchthing)", "4 (json)"]
    assert deliveries[0].error == "cannot be reached"
    assert deliveries[1].error == "apprise does not understand the URL"
    assert hook.titles == ["title"]


def test_a_channel_that_refuses_is_reported_with_its_status(hook: Webhook) -> None:
    hook.status = 403
    assert send([hook.url()], "title", "body") == (Delivery("1 (json)", False, "refused with status 403"),)


def test_no_part_of_a_url_is_logged_or_reported(hook: Webhook, refusing: str) -> None:
    hook.status = 500
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(f"{record.name}: {record.getMessage()}")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    try:
        deliveries = send([refusing, "slack://s3cr3t/t0ken", "json://", hook.url("t0ken")], "title", "body")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert not any(delivery.delivered for delivery in deliveries)
    assert len([line for line in logged if line.startswith("migration_assets")]) == 4
    for secret in ("s3cr3t", "t0ken", "127.0.0.1", "user"):
        assert secret not in f"{deliveries} {logged}"


def test_without_channels_nothing_is_sent() -> None:
    assert send([], "title", "body") == ()


def test_what_somebody_called_a_thing_is_no_markup_and_no_call_in_a_chat(hook: Webhook) -> None:
    body = "trigger <!channel> @everyone [see](https://evil.example)\x1b[2J \u202eof role x\nNext: look"
    assert send([hook.url()], "lag <@U1>\r\n", body)[0].delivered
    [message] = hook.received
    assert message["title"].strip() == "lag \u2039(at)U1\u203a"
    assert message["message"].splitlines() == [
        "trigger \u2039!channel\u203a (at)everyone [see] (https: //evil.example)[2J of role x", "Next: look"
    ]  # fmt: skip
