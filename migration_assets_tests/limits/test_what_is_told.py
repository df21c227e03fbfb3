"""Where a server's limit is reached outside of what is tried again, commands and assets say the same of it."""

import dagster as dg
import psycopg
import pytest
from psycopg import errors

from migration_assets.defs.failures import readable_failures
from migration_assets.postgres.limits_reached import limit_error

_CONNECTING = 'connection failed: connection to server at "h" failed: FATAL:  '


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (psycopg.OperationalError(f"{_CONNECTING}sorry, too many clients already"), "free connections"),
        (psycopg.OperationalError(f"{_CONNECTING}remaining connection slots are reserved"), "free connections"),
        (psycopg.OperationalError(f'{_CONNECTING}too many connections for role "x"'), "free connections"),
        (psycopg.OperationalError(f"{_CONNECTING}out of shared memory"), "max_locks_per_transaction"),
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
