"""TCP ports on 127.0.0.1 for the servers to keep."""

import secrets
import socket

from migration_assets.domain.errors import EmbeddedServerError

# Below what Linux (32768) and macOS (49152) lend to outgoing connections: a kept port stays free between starts.
_LOWEST, _COUNT = 20_000, 10_000


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody listens on; another program may still take it before the server does: check after starting."""
    for _ in range(100):
        port = _LOWEST + secrets.randbelow(_COUNT)
        if is_free(port):
            return port
    raise EmbeddedServerError(
        f"no free port found between {_LOWEST} and {_LOWEST + _COUNT}",
        where="127.0.0.1",
        next_step="stop other servers",
    )
