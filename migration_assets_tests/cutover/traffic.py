"""A process of applications that write, follow the switch, and keep a journal of what was acknowledged to them.

Every writer changes rows of its own alone, so that its journal says exactly what the table must hold in the end. A line
is written after the server's answer to COMMIT, and says which side gave it.

    python -m migration_assets_tests.cutover.traffic < task.json
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from psycopg import errors

from migration_assets_tests.freezes import patience

WRITERS = 4
_DAYS = 91
_INSERT = (
    "INSERT INTO public.bookings (booked_at, guests, price, note) VALUES"
    " ('2024-04-01 00:00+00'::timestamptz + %s * interval '1 day' + %s * interval '1 ms', %s, %s, %s) RETURNING id"
)
_MOVE = (
    "UPDATE public.bookings SET booked_at = '2024-04-01 00:00+00'::timestamptz + %s * interval '1 day'"
    " + %s * interval '1 ms', guests = %s WHERE id = %s"
)


@dataclass(frozen=True)
class Task:
    """Where to write, and where the side in charge is told and the journals go."""

    legacy_url: str
    base_url: str
    seed: int
    folder: str
    owned: list[int] = field(default_factory=list[int])

    @property
    def side_file(self) -> Path:
        return Path(self.folder) / "side"


class Application:
    """One connection at a time, to the side that the switch names."""

    def __init__(self, task: Task, number: int, stop: threading.Event) -> None:
        self.task, self.random, self.stop = task, Random(f"{task.seed}/{number}"), stop
        self.ids = [key for key in task.owned if key % WRITERS == number]
        self.journal = (Path(task.folder) / f"journal-{number}.jsonl").open("w")
        self.refused = 0

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._session(self.task.side_file.read_text())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self._note(failed=f"{type(error).__name__}: {error}")
        finally:
            self._note(refused=self.refused)
            self.journal.close()

    def _session(self, side: str) -> None:
        url = self.task.legacy_url if side == "legacy" else self.task.base_url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET statement_timeout = '30s'")
            while not self.stop.is_set() and self.task.side_file.read_text() == side:
                try:
                    self._transact(connection, side)
                except errors.ReadOnlySqlTransaction:
                    self.refused += 1
                    time.sleep(0.01)
                self.stop.wait(self.random.uniform(0, 0.015))

    def _transact(self, connection: psycopg.Connection[Any], side: str) -> None:
        random = self.random
        ids, changes = list(self.ids), list[dict[str, Any]]()
        give_up = random.random() < 0.05
        with connection.transaction():
            for _ in range(random.choice([1, 1, 1, 2, 5])):
                changes.append(self._change(connection, ids))
            if random.random() < 0.05:
                time.sleep(random.uniform(0.01, 0.2))
            if give_up:
                raise psycopg.Rollback
        if not give_up:
            self.ids = ids
            self._note(side=side, changes=changes)

    def _change(self, connection: psycopg.Connection[Any], ids: list[int]) -> dict[str, Any]:
        random = self.random
        kind = random.choices(["insert", "guests", "move", "delete", "note"], [35, 25, 20, 12, 8])[0]
        day, ms, guests = random.randrange(_DAYS), random.randrange(80_000_000), random.randrange(10**6)
        if kind == "insert" or not ids:
            note = "n" * random.choice([3, 30, 9000])
            row = connection.execute(_INSERT, [day, ms, guests, guests, note]).fetchone()
            assert row is not None
            ids.append(int(row[0]))
            return {"kind": "insert", "id": ids[-1], "guests": guests, "at": [day, ms], "note": len(note)}
        key = random.choice(ids)
        if kind == "delete":
            ids.remove(key)
            done = connection.execute("DELETE FROM public.bookings WHERE id = %s", [key])
        elif kind == "move":
            done = connection.execute(_MOVE, [day, ms, guests, key])
        elif kind == "note":
            guests = random.choice([5, 50, 9001])
            done = connection.execute("UPDATE public.bookings SET note = repeat('x', %s) WHERE id = %s", [guests, key])
        else:
            done = connection.execute("UPDATE public.bookings SET guests = %s WHERE id = %s", [guests, key])
        assert done.rowcount == 1, f"{kind} of {key} met {done.rowcount} rows"
        return {"kind": kind, "id": key, "guests": guests, "at": [day, ms]}

    def _note(self, **entry: object) -> None:
        self.journal.write(json.dumps(entry) + "\n")
        self.journal.flush()


@dataclass
class Journal:
    """What was acknowledged: transactions by side, changes in order, errors."""

    acknowledged: Counter[str] = field(default_factory=Counter[str])
    changes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failures: list[str] = field(default_factory=list[str])
    refused: int = 0

    def replay(self, rows: dict[int, list[Any]]) -> dict[int, list[Any]]:
        """The table as it must be: key → [day, ms, guests, length of the note]."""
        table = {key: list(row) for key, row in rows.items()}
        for change in self.changes:
            key, kind = change["id"], change["kind"]
            if kind == "insert":
                assert key not in table, f"key {key} was given twice"
                table[key] = [*change["at"], change["guests"], change["note"]]
            elif kind == "delete":
                del table[key]
            elif kind == "note":
                table[key][3] = change["guests"]
            elif kind == "move":
                table[key][:3] = [*change["at"], change["guests"]]
            else:
                table[key][2] = change["guests"]
        return table


@contextmanager
def traffic(task: Task) -> Generator[Journal]:
    """The process at work while the body runs; the journal is complete after it."""
    journal = Journal()
    task.side_file.write_text("legacy")
    with subprocess.Popen([sys.executable, "-m", __spec__.name], stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(task)) + "\n")
        process.stdin.flush()
        try:
            yield journal
        finally:
            process.stdin.close()
            assert process.wait(patience(60)) == 0
            for path in sorted(Path(task.folder).glob("journal-*.jsonl")):
                for line in path.read_text().splitlines():
                    entry = json.loads(line)
                    journal.refused += entry.get("refused", 0)
                    journal.failures += [entry["failed"]] if "failed" in entry else []
                    if "side" in entry:
                        journal.acknowledged[entry["side"]] += 1
                        journal.changes += entry["changes"]


def main() -> None:
    """Until the end of the input."""
    task = Task(**json.loads(sys.stdin.readline()))
    stop = threading.Event()
    threads = [threading.Thread(target=Application(task, number, stop).run) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
