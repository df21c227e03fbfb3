"""Which cutover is meant, how patient and how careful it is, and how the applications are told.

The team's own switch is a command, a webhook, or both.
"""

import hashlib
import hmac
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from pydantic import SecretStr

from migration_assets.domain.states import CutoverError, CutoverKind, CutoverState, SideName
from migration_assets.postgres.sessions import Connected
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan

Switch = Callable[[SideName, int], None]
OnState = Callable[[CutoverKind, CutoverState], None]
OnBegin = Callable[[Connected, int], None]


@dataclass(frozen=True)
class CutoverPlan:
    """One table's cutover or rollback.

    Attributes:
        stream: The plan of the table's change stream.
        timeout_seconds: Bounds the time in which no side accepts writes.
        lag_seconds: A marker that arrives within this time counts as a small lag.
        patience_seconds: How long to wait, before writes are held, for a small lag and for a moment between writers.
        sequence_margin: How many keys each sequence leaves out on the target.
        compare_all: Compare every week under CDC while writes are held; else only the weeks that may have changed since
            they were last proven equal.
        switch: Tells the applications which side they belong to, and raises where it cannot.
        base_url_for_legacy: The base as the legacy's own server reaches it.
        on_state: Called with every state before its work begins, mostly while writes are held. It must be quick; what
            it raises is ignored.
        on_begin: Called with the session on the base and the record's id, in the transaction that makes the record and
            before anything is touched. If it raises, the transaction is rolled back and there is no such cutover.
    """

    stream: StreamPlan
    timeout_seconds: float = 60.0
    lag_seconds: float = 5.0
    patience_seconds: float = 60.0
    sequence_margin: int = 1000
    compare_all: bool = True
    switch: Switch | None = None
    base_url_for_legacy: str | None = field(default=None, repr=False)
    on_state: OnState | None = None
    on_begin: OnBegin | None = None

    @property
    def relation(self) -> str:
        """The table's key in the ledger."""
        return self.stream.relation


def switch(migration: Migration, to: SideName, cutover: int) -> None:
    """Tell the applications which side their writes go to, by the hooks that are set.

    Args:
        migration: Whose settings have the hooks.
        to: The side that accepts writes now.
        cutover: The id of the cutover or rollback in the ledger.

    Raises:
        CutoverError: A hook failed or did not end in time.
    """
    settings = migration.settings
    told: dict[str, object] = {"relation": migration.spec.relation, "to": to, "cutover": cutover}
    if settings.cutover_hook_command is not None:
        _command(
            settings.cutover_hook_command,
            told,
            to,
            settings.cutover_hook_timeout_seconds,
            settings.environment_without_secrets(),
        )
    if settings.cutover_hook_url is not None:
        body = json.dumps(told).encode()
        headers = {"Content-Type": "application/json", **_signed(settings.cutover_hook_secret, body)}
        _webhook(
            settings.cutover_hook_url,
            body,
            headers,
            settings.cutover_hook_timeout_seconds,
            past_proxies=settings.cutover_hook_is_local,
        )


def _command(
    command: SecretStr, told: dict[str, object], to: SideName, seconds: float, environment: Mapping[str, str]
) -> None:
    """Run the hook's command. Its output is discarded: it may hold secrets, and only its author knows."""
    try:
        words = [word.replace("{to}", to) for word in shlex.split(command.get_secret_value())]
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            # In a process group of its own: what it started is killed with it, and Ctrl-C does not end it halfway.
            start_new_session=True,
            # Our umask keeps files private, but what a hook writes is often for others: it gets the usual umask.
            umask=0o022,
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


def _signed(secret: SecretStr | None, body: bytes) -> dict[str, str]:
    """Sign the call, so that a receiver who knows the secret can tell that it is ours, unchanged, and recent."""
    if secret is None:
        return {}
    at = str(int(time.time()))
    signature = hmac.new(secret.get_secret_value().encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Migration-Timestamp": at, "X-Migration-Signature": f"sha256={signature}"}


class _NoRedirect(HTTPRedirectHandler):
    """A webhook's answer does not choose who else is called."""

    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


def _webhook(url: SecretStr, body: bytes, headers: Mapping[str, str], seconds: float, *, past_proxies: bool) -> None:
    """Post to the hook's address. Errors show neither the URL nor the answer: both may hold secrets."""
    failed: list[str] = []

    def post() -> None:
        try:
            request = Request(url.get_secret_value(), body, dict(headers))  # noqa: S310 - the team's own URL
            # A call that stays on this machine is not encrypted, and must not go through a proxy of the environment.
            direct = [ProxyHandler({})] if past_proxies else []
            with build_opener(_NoRedirect, *direct).open(request, timeout=seconds):
                pass
        except HTTPError as error:
            failed.append(f"the hook's address answered with status {error.code}")
        except (URLError, HTTPException, OSError, ValueError) as error:
            failed.append(f"the hook's address cannot be called: {type(error).__name__}")

    # The library's own timeout begins anew with every byte that arrives.
    thread = threading.Thread(target=post, daemon=True, name="cutover-hook")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _failed(f"the hook's address did not answer within {seconds:g} s")
    if failed:
        raise _failed(failed[0])


def _failed(what: str) -> CutoverError:
    return CutoverError(what, next_step="run the hook by hand and read its output")


def cutover_plan(migration: Migration, run_id: str | None = None) -> CutoverPlan:
    """Make the plan of a cutover or rollback from the settings."""
    settings = migration.settings
    url = settings.base_url_for_legacy
    hooked = settings.cutover_hook_command is not None or settings.cutover_hook_url is not None
    return CutoverPlan(
        StreamPlan.of(migration, run_id),
        timeout_seconds=settings.cutover_timeout_seconds,
        lag_seconds=settings.cutover_lag_seconds,
        patience_seconds=settings.cutover_patience_seconds,
        sequence_margin=settings.cutover_sequence_margin,
        compare_all=settings.cutover_compare_all,
        switch=(lambda to, cutover: switch(migration, to, cutover)) if hooked else None,
        base_url_for_legacy=url.get_secret_value() if url else None,
    )


@dataclass(frozen=True)
class Step:
    """One state of a run, with times by the base's clock; `finished` is None while the state is under way."""

    state: CutoverState
    started: datetime
    finished: datetime | None

    @property
    def seconds(self) -> float | None:
        """How long the state took; None while it is under way."""
        return None if self.finished is None else (self.finished - self.started).total_seconds()


def steps_of(timeline: Mapping[str, Mapping[str, str]]) -> tuple[Step, ...]:
    """The states of a timeline in the order in which they were reached; jsonb itself keeps no order."""
    steps = [
        Step(CutoverState(state), datetime.fromisoformat(times["started"]), _time(times.get("finished")))
        for state, times in timeline.items()
        if "started" in times
    ]
    order = list(CutoverState)
    return tuple(sorted(steps, key=lambda step: (step.started, order.index(step.state))))


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
