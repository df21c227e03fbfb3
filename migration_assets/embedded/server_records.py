"""`servers.json`: where the clusters' data is, and which port and version each has. No secrets."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from migration_assets.domain.errors import EmbeddedServerError

_FILE_NAME = "servers.json"


@dataclass(frozen=True)
class ServerRecord:
    """One cluster as it was last started.

    Attributes:
        port: TCP port on 127.0.0.1.
        version: Full version such as `16.14`.
        data_folder: Absolute.
    """

    port: int
    version: str
    data_folder: Path


@dataclass(frozen=True)
class Records:
    """Everything that is known about the pair.

    Attributes:
        home: Folder of `servers/<name>/data` and `pgpass`: `var` itself, or one in a shared place (see `reach`).
        servers: By name.
    """

    home: Path
    servers: Mapping[str, ServerRecord]


def read_records(var: Path) -> Records | None:
    """What stands in the file; None when no server was ever started from this folder.

    Raises:
        EmbeddedServerError: The file is damaged.
    """
    file = var / _FILE_NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        # Paths below var are relative in the file, so that the folder can be renamed while the servers are down.
        servers = {
            name: ServerRecord(
                port=int(entry["port"]), version=str(entry["version"]), data_folder=var / str(entry["data_folder"])
            )
            for name, entry in content["servers"].items()
        }
        return Records(home=var / str(content["home"]), servers=servers)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmbeddedServerError(
            f"the file is damaged: {error}",
            where=str(file),
            state_left="the servers and their data were not touched",
            next_step="delete the file and start the servers again: they are found where they were",
        ) from error


def write_records(var: Path, records: Records) -> None:
    """Replace the file, whole or not at all."""
    content = {
        "home": _below(var, records.home),
        "servers": {
            name: {
                "port": record.port,
                "version": record.version,
                "data_folder": _below(var, record.data_folder),
            }
            for name, record in sorted(records.servers.items())
        },
    }
    aside = var / f"{_FILE_NAME}.{secrets.token_hex(4)}.aside"
    with aside.open("w", encoding="utf-8") as output:
        output.write(json.dumps(content, indent=2) + "\n")
        output.flush()
        os.fsync(output.fileno())
    aside.replace(var / _FILE_NAME)


def delete_records(var: Path) -> None:
    """Forget the servers; their data is not touched."""
    (var / _FILE_NAME).unlink(missing_ok=True)


def _below(var: Path, path: Path) -> str:
    return str(path.relative_to(var)) if path.is_relative_to(var) else str(path)
