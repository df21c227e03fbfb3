"""The guard in front of Dagster's web server: it refuses requests that another page in the browser sends.

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
    """The origins from which requests are accepted.

    Attributes:
        allowed: As browsers write them in `Origin`, such as `http://127.0.0.1:3000`.
    """

    allowed: frozenset[str]

    @classmethod
    def of(cls, host: str, port: int, further: tuple[str, ...] = ()) -> "Origins":
        """The origins of this machine's own names and of the listening address.

        Args:
            host: The listening address.
            port: The listening port.
            further: Further origins, from the settings.
        """
        names = {"127.0.0.1", "localhost", host_in_url(host).lower()}
        shown = "" if port == _DEFAULT_PORT else f":{port}"  # browsers leave out the default port
        return cls(frozenset({f"http://{name}{shown}" for name in names} | set(further)))

    @property
    def hosts(self) -> list[str]:
        """The host names, without ports. Refusing others protects against DNS rebinding."""
        return sorted({host_in_url(urlsplit(origin).hostname or "") for origin in self.allowed})


def host_in_url(host: str) -> str:
    """The host as it is written in a URL and in the header `Host`: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


_READING = {"GET", "HEAD"}
_HEADERS = {
    # No other page may show this one in a frame, with its buttons under a picture (clickjacking).
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    # No other page may load an answer of this one, such as a log, as a script or picture.
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """An ASGI application that wraps another one and refuses requests of other pages.

    Args:
        app: The guarded application.
        origins: The origins from which requests are accepted.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer refused requests with 403, 405 or 415, and hand all others on."""
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
                return _refused(
                    403, f"A request from another page was refused: {origin!r} is not in MIGRATION_UI_ORIGINS."
                )
        if asked.scope["type"] == "websocket":
            # Browsers ask no CORS preflight for websockets, but they always send the Origin.
            return None if origins else _refused(403, "A websocket needs an Origin.")
        if asked.scope["method"] in _READING:
            # Only queries in the address are refused: the query editor at the same path needs none.
            if asked.scope["path"].rstrip("/").endswith("/graphql") and "query" in asked.query_params:
                return _refused(405, "GraphQL is answered by POST only, so that opening an address changes nothing.")
            return None
        media = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            return _refused(415, "Only application/json is accepted: any page can send the other content types.")
        return None


def _refused(status: int, why: str) -> PlainTextResponse:
    return PlainTextResponse(why + "\n", status_code=status)
