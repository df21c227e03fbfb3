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

    `timeout_seconds` bounds the time in which no side accepts writes; `patience_seconds` how long a small lag (a marker
    that arrives within `lag_seconds`) and a moment between writers are waited for before that. `sequence_margin` are
    keys left out on the target. `compare_all`: every week under CDC is compared while writes are held; else only those
    whose leaf changed since they were last validated. `switch` tells the applications which side they belong to, and
    raises where it cannot. `base_url_for_legacy` is the base as the legacy's own server reaches it. `on_state` is told
    every state before its deed, mostly while writes are held: it must be quick; what it raises is ignored. `on_begin`
    is called with the session on the base and the record's id in the transaction that makes the record, before anything
    is touched; what it raises ends the cutover, which then never was.
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
    """Tell the applications where their writes go, as the settings say.

    Raises:
        CutoverError: They could not be told.
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
    """What it prints is thrown away: only its author knows whether secrets are in it."""
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
    """Neither the URL nor the answer is shown: both may hold secrets."""
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
    return CutoverError(what, next_step="run the hook by hand and see its own output")


def cutover_plan(migration: Migration, run_id: str | None = None) -> CutoverPlan:
    """The settings as a plan."""
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
    """One state of the machine; `finished` is None while it is under way. Times by the base's clock."""

    state: CutoverState
    started: datetime
    finished: datetime | None

    @property
    def seconds(self) -> float | None:
        """How long the state took; None while it is under way."""
        return None if self.finished is None else (self.finished - self.started).total_seconds()


def steps_of(timeline: Mapping[str, Mapping[str, str]]) -> tuple[Step, ...]:
    """The states in the order in which they were reached; jsonb keeps none."""
    steps = [
        Step(CutoverState(state), datetime.fromisoformat(times["started"]), _time(times.get("finished")))
        for state, times in timeline.items()
        if "started" in times
    ]
    order = list(CutoverState)
    return tuple(sorted(steps, key=lambda step: (step.started, order.index(step.state))))


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
