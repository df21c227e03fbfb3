"""A real PgBouncer between a test and its server."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migration_assets.embedded.processes import own, server_user
from migration_assets_tests.ground import wait_for

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer here: install Debian's package of it")


@contextmanager
def pooler(url: str, mode: str = "transaction") -> Generator[str]:
    """The URL of the same database through a pooler that has one session on it; gone at the end.

    Args:
        url: Of the database, with its file of passwords.
        mode: `transaction`, `session` or `statement`.
    """
    assert PGBOUNCER is not None
    user, to = server_user(), {name: str(value) for name, value in conninfo_to_dict(url).items()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    password = Path(to["passfile"]).read_text().strip().rsplit(":", 1)[1]
    through = make_conninfo("", host="127.0.0.1", port=port, user=to["user"], password=password, dbname=to["dbname"])
    with tempfile.TemporaryDirectory(prefix="pooler-") as name:
        folder = Path(name)
        (folder / "users").write_text(f'"{to["user"]}" "{password}"\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host={to['host']} port={to['port']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users\npool_mode = {mode}\ndefault_pool_size = 1\n"
        )
        for path in (folder, *folder.iterdir()):
            own(path, user)
        process = subprocess.Popen(
            [PGBOUNCER, "-q", str(folder / "ini")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", user=user.uid if user else None, group=user.gid if user else None,
            extra_groups=[] if user else None,
        )  # fmt: skip
        try:
            wait_for(lambda: _answers(through, process), "the pooler answers")
            yield through
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the pooler has ended"
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
