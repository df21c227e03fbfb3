"""Where the page is at home, as browsers write it."""

import asyncio

import pytest
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import Message

from migration_assets.web.guard import Guard, Origins


def status(origins: Origins, host: str, *said: str) -> int:
    """Of an order of JSON to the page, with these `Origin`s."""
    app = TrustedHostMiddleware(Guard(PlainTextResponse("done"), origins), origins.hosts, www_redirect=False)
    sent: list[Message] = []
    headers = [("host", host), ("content-type", "application/json"), *(("origin", one) for one in said)]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/graphql",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [
        ("127.0.0.1", 3000, "localhost:3000"),
        ("::1", 3000, "[::1]:3000"),
        ("::1", 80, "[::1]"),
        ("127.0.0.1", 80, "127.0.0.1"),
        ("Mover.Example", 3000, "mover.example:3000"),
    ],
)
def test_the_page_works_under_the_address_that_it_listens_on(host: str, port: int, shown: str) -> None:
    origins = Origins.of(host, port)
    assert status(origins, shown, f"http://{shown}") == 200
    assert status(origins, shown, "http://somewhere.example") == 403
    assert status(origins, "somewhere.example") == 400
    assert "" not in origins.hosts


def test_one_origin_of_several_that_is_a_stranger_is_enough() -> None:
    origins = Origins.of("127.0.0.1", 3000)
    own = "http://127.0.0.1:3000"
    assert status(origins, "127.0.0.1:3000", own, own) == 200
    assert status(origins, "127.0.0.1:3000", own, "https://somewhere.example") == 403
