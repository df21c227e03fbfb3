"""The team's own switch of its applications: a command, a webhook, or both."""

import hashlib
import hmac
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from pydantic import SecretStr

from migration_assets.domain.cutover_state import CutoverError, SideName
from migration_assets.runtime import Migration


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
            # A group of its own: what it started is killed with it, and nobody's Ctrl-C ends it halfway.
            start_new_session=True,
            # Ours keeps files private, and what a hook writes is often for others: the usual one.
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
    """Who knows the secret can tell that the call is ours, unchanged, and of now."""
    if secret is None:
        return {}
    at = str(int(time.time()))
    signature = hmac.new(secret.get_secret_value().encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Migration-Timestamp": at, "X-Migration-Signature": f"sha256={signature}"}


class _NoRedirect(HTTPRedirectHandler):
    """Whoever answers does not choose who else is told."""

    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


def _webhook(url: SecretStr, body: bytes, headers: Mapping[str, str], seconds: float, *, past_proxies: bool) -> None:
    """Neither the URL nor the answer is shown: both may hold secrets."""
    failed: list[str] = []

    def post() -> None:
        try:
            request = Request(url.get_secret_value(), body, dict(headers))  # noqa: S310 - the team's own URL
            # A proxy of the environment has no business with what stays on this machine, where it is not encrypted.
            direct = [ProxyHandler({})] if past_proxies else []
            with build_opener(_NoRedirect, *direct).open(request, timeout=seconds):
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
