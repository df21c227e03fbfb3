"""Changes rows of a legacy at a rate, in a process of its own: the load under which streams and cuts are measured.

`python -m benchmarks.changes` reads a `Load` as JSON from stdin, prepares its batches, says `ready`, begins at the next
line and ends with a `Written` as JSON. `load_process` is the other end of that. Loads nothing of the project.
"""

import itertools
import json
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import psycopg
from psycopg import sql

_MIX = "UUIUD"  # of every five transactions three update, one inserts, and one deletes what was inserted
_COUNT_AT_MOST = 10**9


@dataclass(frozen=True)
class Load:
    """What to write: rows of `table` between `lower` and `upper` of the control column.

    Row changes are offered at `rate` a second in all, for `seconds`; at rate 0 `changes` of them are made as fast as
    can be. Every writer has rows of its own, so that none waits for another. With `timed`, latencies are kept and
    every transaction that was due is made, however late: a stall counts for all who would have come meanwhile.
    """

    url: str = field(repr=False)
    table: tuple[str, str]
    control_column: str
    lower: str
    upper: str
    columns: tuple[str, ...]
    rate: float
    seconds: float = 0.0
    changes: int = _COUNT_AT_MOST
    rows_each: int = 20
    writers: int = 4
    mix: str = _MIX
    timed: bool = False
    seed: int = 1


@dataclass(frozen=True)
class Written:
    """What was committed; times are of the machine's monotonic clock. Latencies count from when each was due."""

    changes: int
    transactions: int
    began: float
    ended: float
    latencies_ms: tuple[float, ...]

    @property
    def per_second(self) -> float:
        """Row changes a second that the legacy really took."""
        return self.changes / (self.ended - self.began)


class LoadProcess:
    """A process that is connected and waits; `go` lets it begin, `result` waits for its end."""

    def __init__(self, process: subprocess.Popen[str], load: Load) -> None:
        self._process, self.load = process, load

    def go(self) -> None:
        """Begin now."""
        pipe = _require_pipe(self._process.stdin)
        pipe.write("go\n")
        pipe.flush()

    def result(self) -> Written:
        """What it did; raises where it failed."""
        line = _require_pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError("the process that changes rows died; its error stands above")
        return Written(**json.loads(line))


@contextmanager
def load_process(load: Load) -> Generator[LoadProcess]:
    """Start it and wait until it is ready; it does not outlive the body."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.changes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            pipe = _require_pipe(process.stdin)
            pipe.write(json.dumps(asdict(load)) + "\n")
            pipe.flush()
            if _require_pipe(process.stdout).readline() != "ready\n":
                raise RuntimeError("the process that changes rows did not start; its error stands above")
            yield LoadProcess(process, load)
        finally:
            process.kill()


class _Writer:
    """One connection with its own rows."""

    def __init__(self, load: Load, ids: list[int], number: int) -> None:
        self._load, self._number = load, number
        self._connection = psycopg.connect(load.url, autocommit=True, application_name="benchmark: changes")
        random.Random(load.seed + number).shuffle(ids)  # noqa: S311 - so that two contenders change the same rows
        size = load.rows_each
        batches = [sorted(ids[start : start + size]) for start in range(0, len(ids) - size + 1, size)]
        if not batches:
            raise RuntimeError(f"{len(ids)} rows are too few for transactions of {size}")
        self._batches = itertools.cycle(batches)
        self._inserted: deque[list[int]] = deque()
        table = sql.Identifier(*load.table)
        names = sql.SQL(", ").join(sql.Identifier(name) for name in load.columns if name != "id")
        self._update = sql.SQL(
            "UPDATE {} SET guests = 1 + guests % 8, updated_at = clock_timestamp() WHERE id = ANY($1)"
        ).format(table)
        self._insert = sql.SQL(
            "INSERT INTO {table} (id, {names}) SELECT nextval(pg_get_serial_sequence({text}, 'id')), {names}"
            " FROM {table} WHERE id = ANY($1) RETURNING id"
        ).format(table=table, names=names, text=sql.Literal(".".join(load.table)))
        self._delete = sql.SQL("DELETE FROM {} WHERE id = ANY($1)").format(table)

    def run(self, began: float) -> tuple[int, list[float]]:
        """Row changes made, and the latency of every transaction in ms."""
        load, kinds = self._load, itertools.cycle(self._load.mix)
        each = load.writers * load.rows_each / load.rate if load.rate else 0.0
        due, end = began + each * self._number / load.writers, began + load.seconds
        most, changes, latencies = load.changes // load.writers, 0, list[float]()
        cursor = psycopg.RawCursor(self._connection)
        while changes < most:
            now = time.monotonic()
            if load.rate and (due >= end or (not load.timed and now >= end)):
                break
            if due > now:
                time.sleep(due - now)
            changes += self._transact(cursor, next(kinds))
            if load.timed:
                latencies.append((time.monotonic() - due) * 1000)
            due += each
        self._connection.close()
        return changes, latencies

    def _transact(self, cursor: "psycopg.RawCursor[Any]", kind: str) -> int:
        if kind == "U":
            cursor.execute(self._update, [next(self._batches)], prepare=True)
        elif kind == "I":
            cursor.execute(self._insert, [next(self._batches)], prepare=True)
            self._inserted.append([row[0] for row in cursor.fetchall()])
        else:
            cursor.execute(self._delete, [self._inserted.popleft()], prepare=True)
        return cursor.rowcount


def _ids(load: Load) -> list[int]:
    with psycopg.connect(load.url, autocommit=True) as connection:
        return [
            row[0]
            for row in connection.execute(
                sql.SQL("SELECT id FROM {table} WHERE {c} >= {lower} AND {c} < {upper} ORDER BY id").format(
                    table=sql.Identifier(*load.table),
                    c=sql.Identifier(load.control_column),
                    lower=load.lower,
                    upper=load.upper,
                )
            ).fetchall()
        ]


def _require_pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def main() -> None:
    load = Load(**json.loads(sys.stdin.readline()))
    ids = _ids(load)
    writers = [_Writer(load, ids[number :: load.writers], number) for number in range(load.writers)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return  # nobody wants it any more
    began = time.monotonic()
    with ThreadPoolExecutor(load.writers) as pool:
        running = [pool.submit(writer.run, began) for writer in writers]
        done = [one.result() for one in running]
    ended = time.monotonic()
    changes = sum(count for count, _ in done)
    written = Written(
        changes=changes,
        transactions=changes // load.rows_each,
        began=began,
        ended=ended,
        latencies_ms=tuple(round(value, 3) for _, values in done for value in values),
    )
    sys.stdout.write(json.dumps(asdict(written)) + "\n")


if __name__ == "__main__":
    main()
