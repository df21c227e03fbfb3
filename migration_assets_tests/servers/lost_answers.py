"""A proxy before a server that lets a commit through and loses the answer: the product cannot know what happened.

It reads as much of PostgreSQL's protocol as it takes to know a commit: COMMIT itself, and a statement that writes
outside of a transaction.
"""

import re
import socket
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from psycopg.conninfo import conninfo_to_dict

_WRITES = re.compile(
    rb"\s*(COMMIT|INSERT|UPDATE|DELETE|ALTER|CREATE|DROP|SELECT (pg_create|pg_drop|pg_replication_slot|migration\.))",
    re.IGNORECASE,
)
_STARTUP, _HEAD = 4, 5
_PLAIN_REQUESTS = {80877102, 80877103, 80877104}  # cancel, SSL, GSSAPI
_BLOCK = 65536


@dataclass
class Proxy:
    """Counts commits; the one whose number is `strike` loses its answer, and its session is gone. 0: none does.

    Or the first one of a transaction that sent `after`.
    """

    host: str
    port: int
    strike: int = 0
    after: bytes = b""
    commits: list[str] = field(default_factory=list[str])
    struck: bool = False
    lost: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def url(self, url: str) -> str:
        """The same database, through the proxy."""
        return url.replace(f"@{self.host}:{self.port}/", f"@127.0.0.1:{self._listener.getsockname()[1]}/")

    def arm(self, strike: int, after: bytes = b"") -> None:
        """Count anew, and strike at that one."""
        with self._lock:
            self.commits.clear()
            self.strike, self.after, self.struck = strike, after, False

    def serve(self) -> None:
        """Until `close`."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._session, args=(client,), daemon=True).start()

    def close(self) -> None:
        """No new sessions."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _session(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((self.host, self.port))
        except OSError:
            client.close()
            return
        _Session(self, client, server).run()

    def committed(self, statement: bytes, sent: bytes) -> bool:
        """A commit is about to be sent, of a transaction that sent all this; whether its answer is to be lost."""
        with self._lock:
            self.commits.append(statement.decode(errors="replace")[:80])
            meant = len(self.commits) == self.strike or bool(self.after and self.after in sent)
            if meant and not self.struck:
                self.struck = True
                self.lost = f"commit {len(self.commits)} ({self.commits[-1]!r})"
                return True
            return False


class _Session:
    """One client's session: two threads, one for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.status = b"I"
        self.sent = b""
        self.named: dict[bytes, bytes] = {}
        self.losing = threading.Event()

    def run(self) -> None:
        answers = threading.Thread(target=self._answers, daemon=True)
        answers.start()
        with suppress(OSError, EOFError):
            self._requests()
        self._end()

    def _end(self) -> None:
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _requests(self) -> None:
        while True:  # before the session begins
            head = _exactly(self.client, _STARTUP)
            body = _exactly(self.client, struct.unpack("!I", head)[0] - _STARTUP)
            self.server.sendall(head + body)
            if struct.unpack("!I", body[:4])[0] not in _PLAIN_REQUESTS:
                break
        losing = False
        while True:
            head = _exactly(self.client, _HEAD)
            body = _exactly(self.client, struct.unpack("!I", head[1:])[0] - _STARTUP)
            kind = head[:1]
            text = self._statement(kind, body)
            if text:
                self.sent = text if self.status == b"I" else self.sent + text
                ends = text.lstrip().upper().startswith(b"COMMIT")
                if (ends or self.status == b"I") and _WRITES.match(text):
                    losing = self.proxy.committed(text.split(b"\0")[0], self.sent)
            if losing and kind in b"QS":
                self.losing.set()
            self.server.sendall(head + body)

    def _statement(self, kind: bytes, body: bytes) -> bytes:
        """What is about to be done; a prepared statement is when it is bound."""
        if kind == b"Q":
            return body
        if kind == b"P":
            name, text = body.split(b"\0", 1)
            self.named[name] = text
            return b"" if name else text
        if kind == b"B":
            name = body.split(b"\0", 2)[1]
            return self.named.get(name, b"") if name else b""
        return b""

    def _answers(self) -> None:
        """Bytes as they come, but for what the last answer says of the transaction; a lost one ends the session."""
        buffer = b""
        begun = False
        with suppress(OSError):
            while block := self.server.recv(_BLOCK):
                if self.losing.is_set():
                    buffer += block
                    if _says_ready(buffer):
                        break
                    continue
                if not begun and block in (b"N", b"S"):  # the answer to a request for encryption
                    self.client.sendall(block)
                    continue
                begun = True
                buffer = self._note(buffer + block)
                self.client.sendall(block)
        self._end()

    def _note(self, buffer: bytes) -> bytes:
        """Follow the messages; what is not whole yet is returned."""
        while len(buffer) >= _HEAD:
            size = 1 + struct.unpack("!I", buffer[1:_HEAD])[0]
            if len(buffer) < size:
                break
            if buffer[:1] == b"Z":
                self.status = buffer[5:6]
            buffer = buffer[size:]
        return buffer


def _says_ready(buffer: bytes) -> bool:
    return buffer[-6:-1] == b"Z\x00\x00\x00\x05"


def _exactly(source: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        block = source.recv(size - len(parts))
        if not block:
            raise EOFError
        parts += block
    return parts


@contextmanager
def losing_answers(url: str) -> Generator[Proxy]:
    """A proxy before the server of a URL."""
    parts = conninfo_to_dict(url)
    proxy = Proxy(str(parts["host"]), int(str(parts["port"])))
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
