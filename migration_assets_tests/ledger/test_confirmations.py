"""One code, two runs at once: one of them has it, or nobody where that one came to nothing."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from migration_assets.domain.confirmation import ConfirmationError, Deed
from migration_assets.ledger.confirmations import Confirmation, give_code
from migration_assets.ledger.schema import ensure_ledger
from migration_assets_tests.ground import Ground, wait_for

_DEED = Deed("public.bookings", "abandon", "", "look again")
_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.mark.parametrize("first_comes_to", ["an end", "nothing"])
def test_of_two_runs_with_one_code_at_once_only_one_has_it(ground: Ground, first_comes_to: str) -> None:
    with (
        ground.databases.session("base", "first") as first,
        ground.databases.session("base", "second") as second,
        ThreadPoolExecutor(1) as pool,
    ):
        ensure_ledger(first)
        code = give_code(first, _DEED, lambda _: {}).code

        def spend_too() -> None:
            with second.transaction():
                Confirmation(_DEED, lambda _: {}, code).spend(second)

        first.execute("BEGIN")
        Confirmation(_DEED, lambda _: {}, code).spend(first)
        other = pool.submit(spend_too)
        wait_for(lambda: ground.one("base", _WAITS) == 1, "the other run waits for what becomes of the code")
        first.execute("COMMIT" if first_comes_to == "an end" else "ROLLBACK")
        if first_comes_to == "an end":
            with pytest.raises(ConfirmationError, match="this confirmation code was used at"):
                other.result()
        else:
            other.result()
            with pytest.raises(ConfirmationError, match="this confirmation code was used at"):
                Confirmation(_DEED, lambda _: {}, code).require(first)
