"""The servers' password: made once, kept in a libpq password file and nowhere else."""

import os
import secrets
from pathlib import Path

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.addresses import HOST, SUPERUSER
from migration_assets.embedded.privileges import ServerUser, own


def ensure_password(file: Path, user: ServerUser | None) -> str:
    """The password in the file, which is made with a random one when it is missing.

    One line, `127.0.0.1:*:*:migration:<password>`, serves both clusters: when one moves to another port, no second file
    has to change with it. The server user owns the file, because a subscription's worker reads it as well.

    Raises:
        EmbeddedServerError: The file has no such line.
    """
    if not file.exists():
        write_secret(file, f"{HOST}:*:*:{SUPERUSER}:{secrets.token_urlsafe(24)}\n", user)
    host, _, rest = file.read_text(encoding="utf-8").strip().partition(":")
    fields = rest.split(":")
    if host != HOST or len(fields) != 4 or not fields[-1]:  # noqa: PLR2004 - port, database, user, password
        raise EmbeddedServerError(
            "the password file is damaged",
            where=str(file),
            state_left="the databases were not touched",
            next_step="restore the file; without it the data can only be deleted and made anew",
        )
    return fields[-1]


def write_secret(file: Path, text: str, user: ServerUser | None) -> None:
    """Write a file that nobody but the server user (and root) could read at any moment; whole or not at all."""
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.aside")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    own(aside, user)
    aside.replace(file)
