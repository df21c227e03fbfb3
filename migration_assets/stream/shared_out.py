"""Weeks shared out among several workers, each of which keeps its sessions from one week to the next."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from threading import Event

from migration_assets.ledger.slices import SliceRecord

Taken = Iterator[tuple[int, SliceRecord]]
"""What one worker takes: records with their places in the list, each when it is done with the one before."""


def share_out(records: Sequence[SliceRecord], work: Callable[[Taken], None], *, parallel: int, purpose: str) -> None:
    """Have all records worked on, the largest first; the first error ends the others after their present week.

    So does an interrupt of the thread that waits here: nobody has to wait for all the weeks that are left.

    Args:
        records: Each is taken once.
        work: Run in a thread of its own, as often as `parallel` says.
        parallel: Workers at the most.
        purpose: Shown as the threads' name.

    Raises:
        BaseException: The first of what the workers raised, when all have ended.
    """
    todo: SimpleQueue[tuple[int, SliceRecord]] = SimpleQueue()
    for entry in sorted(enumerate(records), key=lambda entry: -(entry[1].base.rows if entry[1].base else 0)):
        todo.put(entry)
    ended = Event()
    raised: list[BaseException] = []

    def take() -> Taken:
        while not ended.is_set():
            try:
                yield todo.get_nowait()
            except Empty:
                return

    def worker() -> None:
        try:
            work(take())
        except BaseException as error:
            raised.append(error)
            ended.set()
            raise

    with ThreadPoolExecutor(max_workers=parallel, thread_name_prefix=purpose) as pool:
        try:
            wait([pool.submit(worker) for _ in range(min(parallel, len(records)))])
        finally:
            ended.set()
    if raised:
        raise raised[0]
