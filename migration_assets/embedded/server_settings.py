"""What the servers run with: fit for logical replication and bulk load on a small machine."""

import re
from collections.abc import Mapping

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.embedded.binaries import Major

FILE_NAME = "migration_assets.conf"

_COMMON = {
    # Reachable from this machine only; no socket files, whose paths are limited to 103 bytes on macOS.
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    # Below the data folder: what a killed server leaves behind goes with it.
    "dynamic_shared_memory_type": "mmap",
    # Logical replication. The default retry interval delays apply starts by up to 5 s.
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_logical_replication_workers": "20",
    "max_worker_processes": "32",
    "wal_retrieve_retry_interval": "100ms",
    # A forgotten slot must not fill the disk.
    "max_slot_wal_keep_size": "16GB",
    # Bulk load: few and slow checkpoints.
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "track_io_timing": "on",
    # pg_ctl -l owns the log file.
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_ONLY: dict[Major, dict[str, str]] = {
    16: {},
    18: {"max_active_replication_origins": "20"},  # default 10: the 11th subscription would loop without a word
}


def render(major: Major, port: int, extra: Mapping[str, str]) -> str:
    """Text of the included configuration file; `extra` wins over what stands here.

    Raises:
        EmbeddedServerError: A name in `extra` is not that of a setting.
    """
    settings = {**_COMMON, **_ONLY[major], **extra, "port": str(port)}
    for name in extra:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise EmbeddedServerError(f"{name!r} is not the name of a PostgreSQL setting", next_step="correct it")
    lines = ["# Rewritten at every start by migration_assets."]
    lines += [f"{name} = '{_escaped(value)}'" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
