"""Where a server's limit is reached outside of what is tried again, commands and assets say the same of it."""

import secrets
from dataclasses import replace

import dagster as dg
import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from migration_assets.defs.failures import readable_failures
from migration_assets.postgres.server_messages import limit_error
from migration_assets.postgres.sessions import Side
from migration_assets_tests.ground import Ground

_CONNECTING = 'connection failed: connection to server at "h" failed: FATAL:  '


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (psycopg.OperationalError(f"{_CONNECTING}sorry, too many clients already"), "free connections"),
        (psycopg.OperationalError(f"{_CONNECTING}remaining connection slots are reserved"), "free connections"),
        (psycopg.OperationalError(f'{_CONNECTING}too many connections for role "x"'), "free connections"),
        (psycopg.OperationalError(f"{_CONNECTING}out of shared memory"), "max_locks_per_transaction"),
        (
            psycopg.OperationalError(f"{_CONNECTING}number of requested standby connections exceeds x"),
            "max_wal_senders",
        ),
        (errors.TooManyConnections("sorry"), "free connections"),
        (errors.DiskFull("could not extend file"), "free room on the disk"),
        (errors.OutOfMemory("out of shared memory"), "max_locks_per_transaction"),
        (errors.ConfigurationLimitExceeded("temporary file size exceeds temp_file_limit"), "raise the limit"),
    ],
)
def test_a_limit_is_told_with_what_to_do_about_it(error: psycopg.Error, advice: str) -> None:
    told = limit_error(error, where="FY25-Q2|W05")
    assert told is not None
    assert (told.where, advice in told.next_step) == ("FY25-Q2|W05", True)
    with pytest.raises(dg.Failure) as failed, readable_failures():
        raise error
    assert advice in str(failed.value.description)


@pytest.mark.parametrize("error", [psycopg.OperationalError("connection refused"), errors.UniqueViolation("twice")])
def test_other_errors_are_no_limits(error: psycopg.Error) -> None:
    assert limit_error(error) is None


@pytest.mark.parametrize("side", ["legacy", "base"])
def test_of_two_servers_it_is_said_which_one_has_no_room(ground: Ground, side: Side) -> None:
    """However the sessions lie within each other; and where there is no session yet."""
    sorts = "SELECT count(*) FROM (SELECT n FROM generate_series(1, 50000) n ORDER BY -n OFFSET 0) AS sorted"
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        session = {"base": base, "legacy": legacy}[side]
        session.execute("SET temp_file_limit = 0; SET work_mem = '64kB'")
        with pytest.raises(dg.Failure) as failed, readable_failures():
            session.execute(sorts)
    assert f"the {side} has no room left" in str(failed.value.description)
    assert failed.value.metadata["where"].value == f"the {side}"

    role = sql.Identifier(f"poor_{secrets.token_hex(4)}")
    with psycopg.connect(ground.databases.url(side), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'poor' CONNECTION LIMIT 0").format(role))
        try:
            url = make_conninfo(ground.databases.url(side), user=role.as_string().strip('"'), password="poor")
            poor = replace(ground.databases, **{f"{side}_url": url})
            with pytest.raises(psycopg.OperationalError) as refused, poor.session(side, "test"):
                pytest.fail("it was let in")
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(role))
    told = limit_error(refused.value, where="FY25-Q2|W05")
    assert told is not None
    assert told.where == f"FY25-Q2|W05, the {side}"
