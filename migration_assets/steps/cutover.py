"""The cutover and the rollback of a migration, with the team's own switch of its applications."""

import json
import logging
import os
import shlex
import signal
import subprocess
import threading
from contextlib import suppress
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from pydantic import SecretStr

from migration_assets.domain.cutover_state import CutoverError, SideName
from migration_assets.postgres.cutover import machine, watching
from migration_assets.postgres.cutover.plan import CutoverPlan
from migration_assets.postgres.cutover.records import CutoverRecord, in_charge, read_cutovers
from migration_assets.postgres.cutover.watching import HeldWrites
from migration_assets.postgres.ledger_schema import ensure_ledger
from migration_assets.runtime import Migration

__all__ = ["CutoverRecord", "HeldWrites", "cut_over", "cutover_plan", "cutovers", "release_writes", "roll_back",
           "side_in_charge", "writes_held"]  # fmt: skip
log = logging.getLogger(__name__)


def cut_over(
    migration: Migration, approved_by: str, *, rehearse: bool = True, run_id: str | None = None
) -> CutoverRecord:
    """Move the writes to the base, or rehearse it; see `machine.cut_over`."""
    _ensure_ledger(migration)
    return machine.cut_over(cutover_plan(migration, run_id), approved_by=approved_by, rehearse=rehearse)


def roll_back(migration: Migration, approved_by: str, *, run_id: str | None = None) -> CutoverRecord:
    """Move them back to the legacy, with nothing lost; see `machine.roll_back`."""
    _ensure_ledger(migration)
    return machine.roll_back(cutover_plan(migration, run_id), approved_by=approved_by)


def writes_held(migration: Migration) -> HeldWrites | None:
    """Whether the side that writes belong to refuses them, and how to release it; for alerts."""
    return watching.writes_held(cutover_plan(migration))


def release_writes(migration: Migration, run_id: str | None = None) -> str:
    """After a cutover died: what is open stays open, else it is undone; see `watching.release_writes`."""
    return watching.release_writes(cutover_plan(migration, run_id))


def side_in_charge(migration: Migration) -> SideName:
    """Where writes belong now."""
    _ensure_ledger(migration)
    with migration.databases.session("base", "cutover:look") as base:
        return in_charge(base, migration.spec.relation)


def cutovers(migration: Migration) -> list[CutoverRecord]:
    """Every cutover, rehearsal and rollback so far, oldest first."""
    _ensure_ledger(migration)
    with migration.databases.session("base", "cutover:look") as base:
        return read_cutovers(base, migration.spec.relation)


def cutover_plan(migration: Migration, run_id: str | None = None) -> CutoverPlan:
    """The settings as a plan."""
    settings = migration.settings
    url = settings.base_url_for_legacy
    hooked = settings.cutover_hook_command is not None or settings.cutover_hook_url is not None
    return CutoverPlan(
        migration.stream_plan(run_id),
        timeout_seconds=settings.cutover_timeout_seconds,
        lag_seconds=settings.cutover_lag_seconds,
        patience_seconds=settings.cutover_patience_seconds,
        sequence_margin=settings.cutover_sequence_margin,
        compare_all=settings.cutover_compare_all,
        switch=(lambda to, cutover: _switch(migration, to, cutover)) if hooked else None,
        base_url_for_legacy=url.get_secret_value() if url else None,
    )


def _ensure_ledger(migration: Migration) -> None:
    with migration.databases.session("base", "cutover:gate") as base:
        ensure_ledger(base)


def _switch(migration: Migration, to: SideName, cutover: int) -> None:
    settings = migration.settings
    told: dict[str, object] = {"relation": migration.spec.relation, "to": to, "cutover": cutover}
    if settings.cutover_hook_command is not None:
        _command(settings.cutover_hook_command, told, to, settings.cutover_hook_timeout_seconds)
    if settings.cutover_hook_url is not None:
        _webhook(settings.cutover_hook_url, told, settings.cutover_hook_timeout_seconds)


def _command(command: SecretStr, told: dict[str, object], to: SideName, seconds: float) -> None:
    """What it prints is thrown away: only its author knows whether secrets are in it."""
    try:
        words = [word.replace("{to}", to) for word in shlex.split(command.get_secret_value())]
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A group of its own: what it started is killed with it, and nobody's Ctrl-C ends it halfway.
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _failed(f"the hook's command cannot be run: {type(error).__name__}") from None
    try:
        process.communicate(json.dumps(told).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        raise _failed(f"the hook's command did not end within {seconds:g} s and was killed") from None
    finally:
        if process.returncode is None:
            _kill(process)
    if process.returncode:
        raise _failed(f"the hook's command ended with code {process.returncode}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def _webhook(url: SecretStr, told: dict[str, object], seconds: float) -> None:
    """Neither the URL nor the answer is shown: both may hold secrets."""
    failed: list[str] = []

    def post() -> None:
        try:
            request = Request(  # noqa: S310 - the team's own URL
                url.get_secret_value(), json.dumps(told).encode(), {"Content-Type": "application/json"}
            )
            with urlopen(request, timeout=seconds):  # noqa: S310
                pass
        except HTTPError as error:
            failed.append(f"the hook's address answered with status {error.code}")
        except (URLError, HTTPException, OSError, ValueError) as error:
            failed.append(f"the hook's address cannot be called: {type(error).__name__}")

    # Its own timeout begins anew with every byte that arrives.
    thread = threading.Thread(target=post, daemon=True, name="cutover-hook")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _failed(f"the hook's address did not answer within {seconds:g} s")
    if failed:
        raise _failed(failed[0])


def _failed(what: str) -> CutoverError:
    return CutoverError(what, next_step="run the hook by hand and see its own output")
