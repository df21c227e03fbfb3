"""Applications that write to the side in charge and keep a journal of what was acknowledged to them.

Each changes rows of its own alone, so that the journal says exactly what the table must hold. Belongs here: ordinary
writers. Those who come by strange ways (replica role, leaves, prepared transactions) are in `strangers`.
"""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
from psycopg import errors, sql

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.adversarial.journal import Journal
from migration_assets_tests.adversarial.table import Session, Side, row_text, session

APPLICATIONS = 3
_LOST = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)
_INSERT = sql.SQL(
    "INSERT INTO public.bookings AS b (booked_at, guests, price, note, mood, document)"
    " VALUES ({at}, %s, %s, %s, %s, %s) RETURNING b.id, {text}"
)
_UPDATE = sql.SQL("UPDATE public.bookings AS b SET {change} WHERE b.id = %s RETURNING b.id, {text}")
_AT = sql.SQL("'2024-04-01 00:00+00'::timestamptz + %s * interval '1 day' + %s * interval '1 ms'")


@dataclass
class World:
    """What everybody shares: where to write, the journal, the log, and what nobody's enemies explain."""

    legacy_url: str
    base_url: str
    servers: EmbeddedServers
    journal: Journal = field(default_factory=Journal)
    side: Side = "legacy"
    lines: list[str] = field(default_factory=list[str])
    faults: list[str] = field(default_factory=list[str])
    excused: tuple[type[BaseException], ...] = ()
    began: float = field(default_factory=time.monotonic)

    def url(self, side: Side | None = None) -> str:
        return self.legacy_url if (side or self.side) == "legacy" else self.base_url

    def note(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:7.3f} {text}")

    def fault(self, text: str) -> None:
        self.faults.append(text)
        self.note(f"FAULT {text}")


@dataclass
class Transaction:
    """One transaction of a journaled writer: what it will have changed once COMMIT is answered."""

    connection: Session
    changes: dict[int, str | None] = field(default_factory=dict[int, str | None])

    def changed(self, rows: list[tuple[int, str]]) -> None:
        self.changes.update(dict(rows))


@contextmanager
def transaction(world: World, connection: Session, side: Side) -> Generator[Transaction]:
    """BEGIN and COMMIT by hand: only the answer to COMMIT counts, and a lost one counts as nothing known."""
    connection.execute("BEGIN")
    under_way = Transaction(connection)
    try:
        yield under_way
    except BaseException:
        if not connection.closed:
            connection.execute("ROLLBACK")
        raise
    try:
        connection.execute("COMMIT")
    except (psycopg.OperationalError, *_LOST):
        world.journal.lost(under_way.changes)
        raise
    world.journal.commit(side, under_way.changes)


class Application(threading.Thread):
    """One connection at a time; whoever holds `busy` stops it between two transactions."""

    def __init__(self, world: World, number: int, seed: object, stop: threading.Event) -> None:
        super().__init__(name=f"application {number}", daemon=True)
        self.world, self.random, self.stop = world, Random(f"{seed}/{number}"), stop
        self.keys = [key for key in world.journal.allowed if key < 1_000_000 and key % APPLICATIONS == number]
        self.busy = threading.Lock()

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._session(self.world.side)
            except (psycopg.OperationalError, *_LOST) as error:
                if not isinstance(error, self.world.excused):
                    self.world.fault(f"{self.name} lost the {self.world.side}: {error!r}")
                self.stop.wait(0.05)
            except Exception as error:  # noqa: BLE001 - the judge looks at it
                if not isinstance(error, self.world.excused):
                    self.world.fault(f"{self.name} failed on the {self.world.side}: {error!r}")
                self.stop.wait(0.2)

    def _session(self, side: Side) -> None:
        with session(self.world.url(side), statement_timeout="30s") as connection:
            while not self.stop.is_set() and self.world.side == side:
                try:
                    with self.busy:
                        if self.world.side == side:
                            self._transact(connection, side)
                except errors.ReadOnlySqlTransaction:
                    self.world.journal.refused += 1
                    self.stop.wait(0.02)
                self.stop.wait(self.random.uniform(0.002, 0.03))

    def _transact(self, connection: Session, side: Side) -> None:
        keys, random = list(self.keys), self.random
        try:
            with transaction(self.world, connection, side) as under_way:
                for _ in range(random.choice([1, 1, 2, 4])):
                    self._change(under_way, keys)
                if random.random() < 0.05:
                    time.sleep(random.uniform(0.01, 0.1))
                _perhaps_give_up(random)
        except _GaveUp:
            return
        except (psycopg.OperationalError, *_LOST):
            # Perhaps it was done: only keys of which one thing is known are touched from now on.
            known = self.world.journal.allowed
            self.keys = [key for key in keys if len(known.get(key, ())) == 1 and known[key] != {None}]
            raise
        self.keys = keys

    def _change(self, under_way: Transaction, keys: list[int]) -> None:
        random, connection = self.random, under_way.connection
        kind = random.choices(["insert", "small", "move", "delete", "document"], [30, 30, 20, 10, 10])[0]
        at = [random.randrange(91), random.randrange(86_000_000)]
        if kind == "insert" or len(keys) < 20:
            document = random.choice([None, None, None, "", random.randbytes(1500).hex()])
            values = [*at, random.randrange(400), random.choice([None, "1.0", "1.00", "NaN"]), random.choice(["", "x"]),
                      random.choice(["calm", "angry"]), document]  # fmt: skip
            rows = connection.execute(_INSERT.format(at=_AT, text=row_text()), values).fetchall()
            keys.append(int(rows[0][0]))
        else:
            key = random.choice(keys)
            if kind == "delete":
                keys.remove(key)
                rows = connection.execute("DELETE FROM public.bookings WHERE id = %s RETURNING id, NULL", [key])
            elif kind == "small":
                rows = _update(connection, sql.SQL("guests = %s"), [random.randrange(400)], key)
            elif kind == "move":
                rows = _update(connection, sql.SQL("booked_at = {}").format(_AT), at, key)
            else:
                rows = _update(connection, sql.SQL("document = %s"), [random.randbytes(1500).hex()], key)
            rows = rows.fetchall()
            if len(rows) != 1:
                self.world.fault(f"{self.name}: {kind} of key {key} met {len(rows)} rows on the {self.world.side}")
        under_way.changed([(int(key), text) for key, text in rows])


def _update(
    connection: Session, change: sql.Composable, values: list[int] | list[str], key: int
) -> psycopg.Cursor[Any]:
    return connection.execute(_UPDATE.format(change=change, text=row_text()), [*values, key])


def _perhaps_give_up(random: Random) -> None:
    if random.random() < 0.05:
        raise _GaveUp


class _GaveUp(Exception):  # noqa: N818 - not an error: applications roll back at times
    pass


@contextmanager
def applications(world: World, seed: object) -> Generator[list[Application]]:
    """All of them at work while the body runs."""
    stop = threading.Event()
    crowd = [Application(world, number, seed, stop) for number in range(APPLICATIONS)]
    for one in crowd:
        one.start()
    try:
        yield crowd
    finally:
        stop.set()
        for one in crowd:
            one.join(60)


@contextmanager
def standing_still(crowd: list[Application]) -> Generator[None]:
    """Nobody of them writes while the body runs."""
    for one in crowd:
        one.busy.acquire()
    try:
        yield
    finally:
        for one in crowd:
            one.busy.release()
