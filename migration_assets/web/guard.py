"""What stands before Dagster's web server: nothing that another page in the operator's browser sends gets through.

Dagster's server asks nobody who he is, and takes mutations by plain GET and by forms: a picture's address on any page
that the operator opens could start a cutover. A browser says truly where a request comes from (Origin) and which name
it asked for (Host), and lets no other site send JSON unasked. The guard rests on these three. Who may use the page at
all is the business of what stands before it.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DEFAULT_PORT = 80


@dataclass(frozen=True)
class Origins:
    """Where the page is at home: everything else in a browser is a stranger.

    Attributes:
        allowed: As browsers write them in `Origin`: `http://127.0.0.1:3000`.
    """

    allowed: frozenset[str]

    @classmethod
    def of(cls, host: str, port: int, further: tuple[str, ...] = ()) -> "Origins":
        """This machine's names at the port, the address that is listened on, and those of a setting."""
        names = {"127.0.0.1", "localhost", host_in_url(host).lower()}
        shown = "" if port == _DEFAULT_PORT else f":{port}"  # browsers leave it out
        return cls(frozenset({f"http://{name}{shown}" for name in names} | set(further)))

    @property
    def hosts(self) -> list[str]:
        """Their names, without ports: a name that was rebound to this machine's address is none of them."""
        return sorted({host_in_url(urlsplit(origin).hostname or "") for origin in self.allowed})


def host_in_url(host: str) -> str:
    """As it stands in a URL and in the header `Host`: an address of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


_READING = {"GET", "HEAD"}
_HEADERS = {
    # No other page shows this one in a frame, with its buttons under a stranger's picture.
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    # Nor loads a log of it as its own script or picture.
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """An ASGI application around another one that refuses what only a stranger's page would send.

    Args:
        app: What is guarded.
        origins: Where the page is at home.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 and 415 itself, hand everything else on."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.append(name, value)
            await send(message)

        refused = self._refusal(HTTPConnection(scope))
        await (refused or self._app)(scope, receive, send_guarded)

    def _refusal(self, asked: HTTPConnection) -> PlainTextResponse | None:
        origins = asked.headers.getlist("origin")
        for origin in origins:
            if origin not in self._origins.allowed:
                return _refused(403, f"Not from another page: {origin!r} is not in MIGRATION_UI_ORIGINS.")
        if asked.scope["type"] == "websocket":
            # Every browser sends it, and reads what it gets: no preflight is asked for sockets.
            return None if origins else _refused(403, "A websocket needs an Origin.")
        if asked.scope["method"] in _READING:
            # The editor of queries at this address takes none from it.
            if asked.scope["path"].rstrip("/").endswith("/graphql") and "query" in asked.query_params:
                return _refused(405, "GraphQL is answered by POST only: an address must change nothing.")
            return None
        media = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            return _refused(415, "Only application/json is taken: other kinds can be sent by any page.")
        return None


def _refused(status: int, why: str) -> PlainTextResponse:
    return PlainTextResponse(why + "\n", status_code=status)
