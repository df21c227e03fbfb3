"""PostgreSQL refuses root: who runs the servers then, and which folders are open to that user."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from migration_assets.domain.errors import EmbeddedServerError

_UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class ServerUser:
    """The unprivileged account that server programs run as while we are root."""

    name: str
    uid: int
    gid: int


def server_user() -> ServerUser | None:
    """Who runs the servers; None means ourselves, which is right for everybody but root.

    Raises:
        EmbeddedServerError: We are root and the system has no `nobody`.
    """
    if os.geteuid() != 0:
        return None
    try:
        account = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and there is no user {_UNPRIVILEGED} to run it as",
            state_left="nothing was created",
            next_step="run the command as an ordinary user",
        ) from None
    return ServerUser(name=account.pw_name, uid=account.pw_uid, gid=account.pw_gid)


def own(path: Path, user: ServerUser | None) -> None:
    """Give a file or folder of ours to the server user; nothing to do as an ordinary user."""
    if user is not None:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


def owner_uid(user: ServerUser | None) -> int:
    """The uid that a data folder must have for its server to start."""
    return os.geteuid() if user is None else user.uid
