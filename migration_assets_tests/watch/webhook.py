"""A real HTTP server on this machine that keeps what is posted to it."""

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """Its apprise URL, and every message so far; answers with `status`, once `meanwhile` has happened."""

    port: int
    status: int = 200
    received: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    meanwhile: Callable[[], object] = lambda: None

    def url(self, path: str = "hook") -> str:
        return f"json://user:s3cr3t@127.0.0.1:{self.port}/{path}"

    @property
    def titles(self) -> list[str]:
        return [str(message["title"]) for message in self.received]


@contextmanager
def webhook() -> Generator[Webhook]:
    """Listen for as long as the body runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            hook.received.append(json.loads(self.rfile.read(length)))
            hook.meanwhile()
            self.send_response(hook.status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook = Webhook(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
