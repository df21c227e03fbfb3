"""Looks at the base again and again, shows each look, and outlives a base that goes away and comes back."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg
from rich.console import Console
from rich.live import Live

from migration_assets.domain.errors import EmbeddedServerError
from migration_assets.ledger.schema import require_ledger
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Timeouts
from migration_assets.runtime import open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.terminal.dashboard import Dashboard, Lost
from migration_assets.watch.overview import Overview, read_overview

_TIMEOUTS = Timeouts(lock=2_000, statement=10_000)
# A base that is frozen neither answers nor breaks the connection.
_PATIENCE_SECONDS = 5.0
_REDRAW_SECONDS = 0.25


@dataclass(frozen=True)
class _Look:
    """What one try brought: an overview, or why there is none; a bug is neither, and ends the watch."""

    overview: Overview | None = None
    error: str = ""
    bug: BaseException | None = None


class _Looker:
    """Asks in a thread of its own, so that the page stays alive while nobody answers."""

    def __init__(self, settings: MigrationSettings, every: float) -> None:
        self._settings = settings
        self._every = every
        self._base: psycopg.Connection[tuple[object, ...]] | None = None
        self.looks: queue.SimpleQueue[_Look] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Not waited for: a base that does not answer must not keep anybody here."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.looks.put(_Look(self._look()))
            except (psycopg.OperationalError, psycopg.InterfaceError, EmbeddedServerError) as error:
                self._leave()
                self.looks.put(_Look(error=told(error)))
            except BaseException as error:  # noqa: BLE001 - raised again where somebody sees it
                self.looks.put(_Look(bug=error))
                break
            self._stop.wait(self._every)
        self._leave()

    def _look(self) -> Overview:
        # Opened anew each time: embedded servers may come back on another port.
        migration = open_migration(self._settings)
        if self._base is None:
            self._base = migration.databases.connect("base", "status", _TIMEOUTS)
            require_ledger(self._base)
        return read_overview(self._base, migration.spec)

    def _leave(self) -> None:
        if self._base is not None:
            self._base.close()
        self._base = None


def watch_base(
    console: Console, settings: MigrationSettings, *, every: float, until: Callable[[Dashboard], bool] | None = None
) -> None:
    """Show the dashboard until Ctrl-C; where there is no terminal, print each look.

    Args:
        console: Where to.
        settings: Whose base.
        every: Seconds between two looks.
        until: Asked after each frame whether that is enough.

    Raises:
        MigrationError: The base cannot be looked at whatever is waited for: the ledger is newer than this program.
    """
    page = Dashboard(
        max_age=timedelta(hours=settings.validation_max_age_hours),
        lag_warning=settings.lag_warning_seconds,
        lag_critical=settings.lag_critical_seconds,
    )
    looker = _Looker(settings, every)
    looker.start()
    try:
        with ExitStack() as stack:
            live: Live | None = None
            if console.is_terminal:
                live = stack.enter_context(Live(page, console=console, screen=True, auto_refresh=False))
            heard = time.monotonic()
            while True:
                page, news = _next(looker, page, timeout=min(every, _REDRAW_SECONDS))
                now = time.monotonic()
                heard = now if news else heard
                if not news and now - heard > _PATIENCE_SECONDS + every and page.lost is None:
                    page = replace(page, lost=Lost("it does not answer", heard))
                if live is not None:
                    live.update(page, refresh=True)
                elif news:
                    console.print(page)
                if until is not None and until(page):
                    return
    except KeyboardInterrupt:
        return
    finally:
        looker.stop()


def _next(looker: _Looker, page: Dashboard, *, timeout: float) -> tuple[Dashboard, bool]:
    """The page with the newest look in it, and whether there was one."""
    try:
        look = looker.looks.get(timeout=timeout)
    except queue.Empty:
        return page, False
    if look.bug is not None:
        raise look.bug
    if look.overview is not None:
        return replace(page, overview=look.overview, lost=None), True
    since = page.lost.since if page.lost is not None else time.monotonic()
    return replace(page, lost=Lost(look.error, since)), True
