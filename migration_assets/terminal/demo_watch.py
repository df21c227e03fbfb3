"""Watches the stream in the background while the demo goes on: the lag, measured by heartbeats."""

import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from migration_assets.postgres.sessions import Connected
from migration_assets.runtime import Migration
from migration_assets.steps.watching import watch_stream

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


def applied_changes(base: Connected, relation: str) -> int:
    """Row changes that the leaves have seen since their ledger rows noted a validation, all weeks together."""
    row = base.execute(
        "SELECT coalesce(sum(t.n_tup_ins + t.n_tup_upd + t.n_tup_del), 0)::bigint FROM migration.slices s"
        " JOIN pg_stat_all_tables t ON t.relname = s.leaf WHERE s.relation = %s AND s.state <> 'absent'",
        [relation],
    ).fetchone()
    return int(row[0]) if row else 0
