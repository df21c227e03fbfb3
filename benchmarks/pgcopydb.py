"""Contender `pgcopydb`: the clone of the whole database by pgcopydb, where it is on the PATH; no proof by itself."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from benchmarks.clients import ClientFailedError, measured, run_client
from benchmarks.contenders import Contender, Run
from benchmarks.lab import Lab, client_program

_COMPARES_SINCE = (0, 13)


def contender() -> Contender:
    """Skipped where it is not installed; Debian's package is `pgcopydb`."""
    skip = None if shutil.which("pgcopydb") else "pgcopydb is not on the PATH (Debian: apt-get install pgcopydb)"
    return Contender("pgcopydb", f"pgcopydb {version_text()} clone" if not skip else "pgcopydb clone", _run, skip)


def version_text() -> str:
    """Such as `0.10-1`."""
    found = re.search(r"version (\S+)", run_client(["pgcopydb", "--version"]))
    return found[1] if found else "?"


def _run(lab: Lab, copies: int) -> Run:
    tools = Path(client_program("pg_dump")).parent
    urls = lab.databases
    ends = ["--source", urls.legacy_url, "--target", urls.base_url]
    # It calls pg_dump and pg_restore, which must be as new as the servers.
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PG_CONFIG": str(tools / "pg_config")}
    with tempfile.TemporaryDirectory(prefix="pgcopydb-") as folder, measured(lab.server_cpu) as usage:
        with usage.phase("clone"):
            run_client(
                ["pgcopydb", "clone", *ends, "--dir", f"{folder}/clone", "--skip-large-objects",
                 "--table-jobs", str(copies), "--index-jobs", str(copies)],
                environment,
            )  # fmt: skip
        unvalidated = usage.seconds
        if version() >= _COMPARES_SINCE:
            with usage.phase("compare data"):
                run_client(["pgcopydb", "compare", "data", *ends, "--dir", f"{folder}/compare"], environment)
        else:
            with usage.phase("fingerprints"):
                legacy, base = lab.fingerprints()
            if legacy != base:
                raise ClientFailedError(f"the base has {base.rows:,} rows of {legacy.rows:,}, or some were changed")
    return Run("pgcopydb", usage, unvalidated, usage.seconds)


def version() -> tuple[int, ...]:
    """Such as (0, 10)."""
    return tuple(int(part) for part in re.findall(r"\d+", version_text())[:2])
