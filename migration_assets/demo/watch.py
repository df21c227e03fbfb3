"""Watches the stream in the background while the demo goes on: the lag, measured by heartbeats."""

import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.slices import read_slices
from migration_assets.postgres.leaf_changes import changes_by_leaf
from migration_assets.postgres.sessions import Connected
from migration_assets.runtime import Migration
from migration_assets.watch.watching import watch_stream

_EVERY_SECONDS = 0.5


class StreamWatch:
    """A context manager; `lags` are seconds, in the order of their measurement. The ledger keeps the samples."""

    def __init__(self, migration: Migration) -> None:
        self.lags: list[float] = []
        self.alerts: list[str] = []
        self._migration = migration
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stream watch", daemon=True)

    def __enter__(self) -> Self:
        # Alerts are told at the end; a log line in the middle of a progress bar is hard to read.
        logging.getLogger("migration_assets").setLevel(logging.ERROR)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(_EVERY_SECONDS):
                watched = watch_stream(self._migration)
                if watched.sample.lag_seconds is not None:
                    self.lags.append(watched.sample.lag_seconds)
                self.alerts += [f"{alert.code}: {alert.what}" for alert in watched.raised]
        except BaseException as error:  # noqa: BLE001 - raised where the watch is left
            self._error = error


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0.0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def applied_changes(base: Connected, spec: TableSpec) -> int:
    """Row changes that all leaves together have seen; the difference of two looks is what came in between."""
    leaves = [record.leaf for record in read_slices(base, spec.relation)]
    return sum(changes_by_leaf(base, spec.table, leaves).values())
