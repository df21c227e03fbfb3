"""kill -9 of a server at a state of the machine: the writes are where they belong afterwards, and nothing is lost.

All of them: `python -m migration_assets_tests.cutover.test_servers_killed`.
"""

import secrets
import sys
import traceback
from collections.abc import Generator
from itertools import product
from random import Random, SystemRandom

import psycopg
import pytest

from migration_assets.cutover import stages
from migration_assets.cutover.plan import Switch
from migration_assets.cutover.work import Work
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.states import BEFORE_OPEN, CutoverError, CutoverState
from migration_assets.embedded.servers import EmbeddedServers, ServerName
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.plan import StreamPlan
from migration_assets_tests.cutover.ground import CutoverGround, ground_of
from migration_assets_tests.cutover.kills import accepts, stage
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.ground import wait_for
from migration_assets_tests.server_pairs import quick_pair
from migration_assets_tests.sweeps import telling

_SEED = SystemRandom().randrange(10**6)
Case = tuple[str, CutoverState, ServerName]
_SERVERS: tuple[ServerName, ServerName] = ("legacy", "base")
CASES: list[Case] = [
    *product(("cutover", "rehearsal", "rollback"), BEFORE_OPEN, _SERVERS),
    *product(("cutover", "rollback"), (CutoverState.OPEN, CutoverState.SWITCHED), _SERVERS),
]


@pytest.fixture(scope="module")
def pair() -> Generator[EmbeddedServers]:
    with quick_pair() as found:
        yield found


@pytest.fixture(scope="module")
def mortal(pair: EmbeddedServers) -> CutoverGround:
    return made(pair)


def made(pair: EmbeddedServers) -> CutoverGround:
    name = f"mortal_{secrets.token_hex(4)}"
    for server in _SERVERS:
        pair.recreate_database(server, name)
    return ground_of(pair.legacy_url(name), pair.base_url(name))


def crash(ground: CutoverGround, pair: EmbeddedServers, case: Case) -> str:
    """The server dies as the state's deed begins, and comes back at once; then somebody looks after it."""
    kind, state, server = case
    stage(ground, kind)
    ground.insert(ground.charge())
    with pytest.MonkeyPatch.context() as patch:

        def dies(*_: object) -> None:
            pair.kill(server)
            pair.start()

        if state is CutoverState.OPEN:
            # The source is marked, and the target not open yet.
            opens = stages.open_side

            def late(target: Connected, plan: StreamPlan, cutover: int) -> None:
                dies()
                opens(target, plan, cutover)

            patch.setattr(stages, "open_side", late)
        elif state in stages.STAGES:
            original = stages.STAGES[state]

            def deed(work: Work) -> None:
                dies()
                original(work)

            patch.setitem(stages.STAGES, state, deed)  # pyright: ignore[reportArgumentType]
        said = attempt(ground, kind, dies if state is CutoverState.SWITCHED else None)
    held = ground.watch()
    if not accepts(ground, ground.charge()):
        assert held is not None
        assert "release-writes" in held.next_step
    released: list[str] = []

    def let_go() -> bool:
        # The dead session's locks go when its server notices; a person would try again, too.
        try:
            released.append(ground.let_go())
        except (MigrationError, psycopg.Error) as error:
            released.append(str(error).splitlines()[0])
            return False
        return True

    wait_for(let_go, "the writes are released")
    assert ground.watch() is None
    assert accepts(ground, ground.charge())
    ground.insert(ground.charge())
    settle_down(ground)
    ground.equal()
    return f"{kind}, {state}, {server}: {said}; held: {held is not None}; {released[-1]}"


def attempt(ground: CutoverGround, kind: str, switch: Switch | None) -> str:
    try:
        if kind == "rollback":
            record = ground.back(switch=switch)
        else:
            record = ground.cut(rehearse=kind == "rehearsal", switch=switch)
    except (CutoverError, psycopg.Error) as error:
        return str(error).splitlines()[0][:120]
    return record.outcome


@pytest.mark.long
@pytest.mark.parametrize("number", telling(range(5), {0, 1}))
def test_a_server_killed_at_a_state_costs_no_row_and_no_writes(
    mortal: CutoverGround, pair: EmbeddedServers, number: int
) -> None:
    case = Random(_SEED + number).choice(CASES)
    print(f"seed {_SEED + number}: {crash(mortal, pair, case)}")


@pytest.mark.long
def test_a_legacy_killed_when_it_is_open_again_is_sent_nothing_of_its_own(
    mortal: CutoverGround, pair: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An advance of a slot is not on disk yet: after the crash it would send again what came from the base."""
    stage(mortal, "rollback")
    waits = stages.STAGES[CutoverState.WAITING]

    def booked_meanwhile(work: Work) -> None:
        for _ in range(3):
            mortal.insert("base")
        waits(work)

    def dies(*_: object) -> None:
        pair.kill("legacy")
        pair.start()

    monkeypatch.setitem(stages.STAGES, CutoverState.WAITING, booked_meanwhile)  # pyright: ignore[reportArgumentType]
    assert attempt(mortal, "rollback", dies) == "succeeded"
    assert mortal.charge() == "legacy"
    mortal.insert("legacy")
    mortal.assert_same()


def main() -> None:
    """One line a case."""
    failed = 0
    with quick_pair() as pair:
        ground = made(pair)
        for case in CASES[-8:] if "--open" in sys.argv else CASES:
            try:
                print(crash(ground, pair, case), flush=True)
            except Exception:  # noqa: BLE001 - the others are to be tried all the same
                failed += 1
                print(f"FAILED {case}\n{traceback.format_exc()}", flush=True)
                ground = made(pair)
    print(f"{failed} were not mended")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
