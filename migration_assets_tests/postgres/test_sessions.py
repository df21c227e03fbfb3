"""A session has every timeout set, writes values the same way everywhere, and keeps the password to itself."""

from dataclasses import replace

import psycopg
import pytest

from migration_assets.domain.errors import MigrationError, SettingsError
from migration_assets.domain.evidence_chain import Doer
from migration_assets.postgres.sessions import Databases, Timeouts, connect
from migration_assets_tests.ground import Ground

_SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{_SECRET}%zz@127.0.0.1:1/db",
        f"postgresql://u:p@{_SECRET}@127.0.0.1:1/db",
        f"postgresql://u:{_SECRET}@[::1/db",
        f"postgresql://u:{_SECRET}@127.0.0.1:1/db?what={_SECRET}",
        f"postgresql://u:{_SECRET}@127.0.0.1:1/db",
        f"host=127.0.0.1 port=1 password='{_SECRET}",
        f"{_SECRET}",
    ],
)
def test_no_error_of_a_connection_shows_the_password(url: str) -> None:
    with pytest.raises((MigrationError, psycopg.OperationalError)) as caught:
        connect(url, "test", Timeouts())
    error: BaseException | None = caught.value
    while error is not None:
        assert _SECRET not in str(error)
        error = None if error.__suppress_context__ else error.__cause__ or error.__context__


def test_a_url_that_cannot_be_read_says_how_to_write_it() -> None:
    with pytest.raises(SettingsError, match="percent-encoded"):
        connect("postgresql://u:100%@127.0.0.1:1/db", "test", Timeouts())


def test_the_urls_are_in_no_repr() -> None:
    assert _SECRET not in repr(Databases(f"postgresql://u:{_SECRET}@h/d", f"postgresql://u:{_SECRET}@h/d"))


def test_every_timeout_is_set_and_an_open_transaction_ends_with_its_session(ground: Ground) -> None:
    timeouts = Timeouts(lock=111, statement=2222, idle_in_transaction=3333, client_check=4444)
    with ground.databases.session("base", "a purpose", timeouts) as base:
        names = (
            "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout",
            "client_connection_check_interval", "application_name", "search_path", "TimeZone",
        )  # fmt: skip
        values = base.execute(
            "SELECT array_agg(current_setting(n) ORDER BY o) FROM unnest(%s::text[]) WITH ORDINALITY u(n, o)",
            [list(names)],
        ).fetchone()
        assert values == (["111ms", "2222ms", "3333ms", "4444ms", "migration_assets:a purpose", "pg_catalog", "UTC"],)
        base.execute("BEGIN")
        base.execute("CREATE TABLE public.half_done ()")
    assert ground.one("base", "SELECT to_regclass('public.half_done') IS NULL")


def test_a_tag_of_a_run_that_no_ledger_could_hold_keeps_nothing_from_the_ledger(ground: Ground) -> None:
    odd = Doer("root", "host", {"user": "a\x00da\x1b[2J \udcff\u202e" + "x" * 1_000_000})
    with replace(ground.databases, doer=odd).session("base", "test") as base:
        row = base.execute("SELECT current_setting('migration_assets.doer')::jsonb -> 'tags' ->> 'user'").fetchone()
    assert row is not None
    assert row[0].startswith("a da [2J ? x")
    assert len(row[0]) == 200
