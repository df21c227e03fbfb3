"""The ground of these tests: a small table under CDC, and the plan of its cutover."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import LiteralString

import psycopg
from psycopg.conninfo import make_conninfo

from migration_assets.cutover.machine import cut_over, roll_back
from migration_assets.cutover.plan import CutoverPlan, Switch
from migration_assets.cutover.writes import HeldWrites, release_writes, writes_held
from migration_assets.domain.evidence_chain import ChainKind, ChainRecord
from migration_assets.domain.states import CutoverState, SideName
from migration_assets.ledger.chain import verify_chain
from migration_assets.ledger.charge import in_charge
from migration_assets.ledger.cutovers import CutoverRecord, read_cutovers
from migration_assets.ledger.stream import StreamLock
from migration_assets.postgres.sessions import Databases
from migration_assets.quarters.fence_functions import let_through
from migration_assets_tests.ground import Ground

Before = Callable[[CutoverState, Callable[[], object]], None]
SIDES: tuple[SideName, SideName] = ("legacy", "base")


class CutoverGround(Ground):
    """With the verbs of a cutover."""

    def cutover_plan(self, **changes: object) -> CutoverPlan:
        plan = CutoverPlan(self.plan, timeout_seconds=20, lag_seconds=5, patience_seconds=5, sequence_margin=100)
        return replace(plan, **changes)  # pyright: ignore[reportArgumentType]

    def cut(self, *, rehearse: bool = False, **changes: object) -> CutoverRecord:
        return cut_over(self.cutover_plan(**changes), approved_by="Ada", rehearse=rehearse)

    def back(self, **changes: object) -> CutoverRecord:
        return roll_back(self.cutover_plan(**changes), approved_by="Ada")

    def watch(self) -> HeldWrites | None:
        return writes_held(self.cutover_plan())

    def let_go(self) -> str:
        return release_writes(self.cutover_plan())

    def charge(self) -> SideName:
        with self.databases.session("base", "test") as base:
            return in_charge(base, self.spec.relation)

    def records(self) -> list[CutoverRecord]:
        with self.databases.session("base", "test") as base:
            return read_cutovers(base, self.spec.relation)

    def evidence(self) -> list[ChainRecord]:
        """The chain; it holds, and has one record of each cutover that ended."""
        with self.databases.session("base", "test") as base:
            chain, found = verify_chain(base, self.spec.relation)
        assert found == ()
        ended = [record.id for record in self.records() if record.outcome != "running"]
        assert [record.row[1] for record in chain if record.kind == ChainKind.CUTOVER and record.row] == ended
        return chain

    def as_we(self, side: SideName, *statements: LiteralString) -> None:
        """In one transaction that passes a hold, as our own steps do: what a test damages there."""
        with psycopg.connect(self.databases.url(side)) as connection:
            let_through(connection)
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def replicating(self, side: SideName) -> Generator[psycopg.Connection[tuple[object, ...]]]:
        """A session as a WAL sender's, which takes statements as others do, and the commands of replication."""
        url = make_conninfo(self.databases.url(side), replication="database")
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            yield connection

    def insert(self, side: SideName, when: str = "2024-05-01 12:00+00") -> int:
        """One booking whose key is given by the side's own sequence."""
        return int(self.one(side, "INSERT INTO bookings (booked_at, guests) VALUES (%s, 2) RETURNING id", when))

    def end_who_cuts_over(self) -> None:
        """Whoever cuts over, goes back, repairs the legacy or closes it loses its lock on the base."""
        self.ask(
            "base",
            "SELECT pg_terminate_backend(pid, 5000) FROM migration.session_locks WHERE name = %s",
            StreamLock.CUTOVER.named(self.spec.relation),
        )

    def equal(self) -> None:
        """Both sides hold the same rows; nobody writes and everything has arrived."""
        here, there = self.contents("legacy"), self.contents("base")
        lost, surplus = set(here) - set(there), set(there) - set(here)
        assert here == there, f"legacy alone {sorted(lost)[:4]}, base alone {sorted(surplus)[:4]}"


def ground_of(legacy_url: str, base_url: str, rows: int = 910) -> CutoverGround:
    ground = CutoverGround(Databases(legacy_url, base_url))
    ground.fill(rows)
    ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), %s)", rows)
    ground.streamed()
    return ground


def noted(into: list[SideName]) -> Switch:
    return lambda to, _cutover: into.append(to)


def failing(only: SideName | None = None) -> Callable[[SideName, int], None]:
    def switch(to: SideName, _cutover: int) -> None:
        if only in {None, to}:
            raise RuntimeError("secret")

    return switch


def past_the_hold(ground: CutoverGround, write: LiteralString) -> None:
    """As the legacy's owner writes to a table whose hold he takes away for a moment."""
    fires = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'migration_assets_hold'"
    enable = "ENABLE ALWAYS" if ground.one("legacy", fires) == "A" else "ENABLE"
    ground.run(
        "legacy",
        "BEGIN; ALTER TABLE bookings DISABLE TRIGGER migration_assets_hold; " + write
        + "; ALTER TABLE bookings " + enable + " TRIGGER migration_assets_hold; COMMIT",
    )  # fmt: skip
