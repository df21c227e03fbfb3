"""The live dashboard outlives its base."""

import io
import os
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from rich.console import Console

from migration_assets.domain.errors import LedgerError
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.settings import MigrationSettings
from migration_assets.terminal.dashboard import Dashboard, watch_base
from migration_assets_tests.ground import Ground


def settings_of(ground: Ground) -> MigrationSettings:
    return MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(ground.databases.legacy_url),
        base_url=SecretStr(ground.databases.base_url),
        table="public.bookings",
    )


def _shut(servers: EmbeddedServers, database: str, *, shut: bool) -> None:
    """A base that takes no connections and breaks those it has, or takes them again."""
    with psycopg.connect(servers.base_url("postgres"), autocommit=True) as admin:
        allowed = sql.SQL("false" if shut else "true")
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(database), allowed))
        if shut:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])


@contextmanager
def _opened_at_last(servers: EmbeddedServers, database: str) -> Generator[None]:
    try:
        yield
    finally:
        _shut(servers, database, shut=False)


def test_a_base_that_goes_away_is_said_so_and_comes_back(servers: EmbeddedServers, ground: Ground) -> None:
    database = os.path.basename(ground.databases.base_url.split("?")[0])  # noqa: PTH119 - of a URL
    screen = io.StringIO()
    console = Console(file=screen, width=80, height=30, force_terminal=True)
    acts: list[str] = []

    def act(page: Dashboard) -> bool:
        if not acts and page.overview is not None:
            acts.append("seen")
            _shut(servers, database, shut=True)
        elif acts == ["seen"] and page.lost is not None:
            assert page.overview is not None, "the last look stays"
            acts.append("lost")
            _shut(servers, database, shut=False)
        elif acts == ["seen", "lost"] and page.lost is None:
            acts.append("back")
        return acts == ["seen", "lost", "back"]

    with _opened_at_last(servers, database):
        watch_base(console, settings_of(ground), every=0.1, until=act)
    assert acts == ["seen", "lost", "back"]
    assert "The base has not answered for" in screen.getvalue()


def test_a_base_that_was_never_there_is_waited_for(ground: Ground) -> None:
    settings = settings_of(ground).model_copy(
        update={"base_url": SecretStr("postgresql://x:open-sesame@127.0.0.1:1/x")}
    )
    screen = io.StringIO()
    watch_base(Console(file=screen, width=80), settings, every=0.1, until=lambda page: page.lost is not None)
    assert "The base has not answered" in screen.getvalue()
    assert "open-sesame" not in screen.getvalue()


def test_without_a_terminal_each_look_is_printed(ground: Ground) -> None:
    screen, looks = io.StringIO(), 0

    def twice(page: Dashboard) -> bool:
        nonlocal looks
        looks += page.overview is not None
        return screen.getvalue().count("public.bookings ") >= 2

    watch_base(Console(file=screen, width=80), settings_of(ground), every=0.1, until=twice)
    assert screen.getvalue().count("W01 W02") == 2


def test_what_waiting_cannot_mend_ends_the_watch(ground: Ground) -> None:
    ground.run("base", "INSERT INTO migration.schema_versions (version) VALUES (4711)")
    try:
        with pytest.raises(LedgerError, match="version 4711"):
            watch_base(Console(file=io.StringIO(), width=80), settings_of(ground), every=0.1)
    finally:
        ground.run("base", "DELETE FROM migration.schema_versions WHERE version = 4711")
