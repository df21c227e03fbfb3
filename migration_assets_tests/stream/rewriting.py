"""Somebody who rewrites a table exactly between two moments of ours."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg import errors

from migration_assets.postgres.sessions import Side
from migration_assets_tests.ground import Ground

REWRITES = ("ALTER TABLE public.bookings ALTER COLUMN note TYPE text USING note || ''", "CLUSTER public.bookings")
_IMPATIENT_MS = 400


def rewrite(ground: Ground, side: Side, statement: str = REWRITES[0]) -> bool:
    """Whether the table was rewritten; not while somebody holds it."""
    with psycopg.connect(ground.databases.url(side), autocommit=True) as connection:
        connection.execute(f"SET lock_timeout = {_IMPATIENT_MS}".encode())
        try:
            connection.execute(statement.encode())
        except errors.LockNotAvailable:
            return False
        return True


def before(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, happens: Callable[[], object], *, call: int = 1
) -> list[object]:
    """Let something happen just before the module calls the function for the `call`th time; what it returned."""
    original = getattr(module, name)
    results: list[object] = []
    calls = 0

    @functools.wraps(original)
    def wrapped(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            results.append(happens())
        return original(*arguments, **more)

    monkeypatch.setattr(module, name, wrapped)
    return results
