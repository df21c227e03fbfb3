"""What the tests of the embedded servers ask of them."""

import time
from collections.abc import Callable

import psycopg

from migration_assets.embedded.servers import EmbeddedServers, ServerName, ServerStatus
from migration_assets_tests.freezes import patience

FAST = {"fsync": "off"}


def one(url: str, query: str, *parameters: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return str(row[0])


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def status_of(pair: EmbeddedServers, name: ServerName) -> ServerStatus:
    return next(status for status in pair.status() if status.name == name)


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience(seconds), "it never became true"
        time.sleep(0.05)
