"""Contender `slices`: this project's own copy, all weeks of all quarters, several at a time, each week proven."""

import json
import queue
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.clients import ClientFailedError, measured
from benchmarks.contenders import Contender, Run
from benchmarks.lab import Lab
from benchmarks.lab_names import MAINTENANCE_WORK_MEM_MB, SPEC
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter, FiscalWeek
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.slices import read_slices
from migration_assets.quarters.partitions import ensure_quarter

_QUARTERS = tuple(FiscalQuarter.parse(key) for key in ("FY24-Q3", "FY24-Q4", "FY25-Q1", "FY25-Q2"))
"""Where the bookings lie that `create_bookings` makes: all of them."""


def contender() -> Contender:
    """Always there."""
    return Contender("slices", "migration_assets, validated", _run)


def _run(lab: Lab, copies: int) -> Run:
    calendar = FiscalCalendar()
    opening = _open(lab, calendar)
    weeks: queue.SimpleQueue[FiscalWeek] = queue.SimpleQueue()
    for quarter in _QUARTERS:
        for week in calendar.weeks_of(quarter):
            weeks.put(week)
    with measured(lab.server_cpu) as usage, usage.phase("copy and prove"), ThreadPoolExecutor(copies) as pool:
        start = time.monotonic()
        workers = [pool.submit(_work, lab, weeks) for _ in range(copies)]
        answers = [answer for worker in workers for answer in worker.result()]
    slices: dict[str, float] = {}
    with lab.databases.session("base", "benchmark") as base:
        for record in read_slices(base, SPEC.relation):
            if record.copied is not None:
                for phase, seconds in record.copied.seconds.items():
                    slices[phase] = slices.get(phase, 0.0) + seconds
    notes = {
        # What the peers do without a proof; an upper bound, since the legacy's fingerprint competes for the same cores.
        "copy + indexes + swap alone_seconds": sum(slices.get(p, 0.0) for p in ("copy", "indexes", "swap")) / copies,
        "opening_seconds": opening,
        "startup_seconds": min(answer["began"] for answer in answers) - start,
        "busy_seconds": sum(answer["seconds"] for answer in answers),
        "slices": float(len(answers)),
        "largest_worker_rss_bytes": float(max(answer["max_rss_bytes"] for answer in answers)),
    }
    return Run("slices", usage, usage.seconds, usage.seconds, slices, notes)


def _open(lab: Lab, calendar: FiscalCalendar) -> float:
    """Days ahead of a copy in real life, and so not part of it; told apart. Seconds."""
    start = time.perf_counter()
    with lab.databases.session("base", "benchmark") as base:
        ensure_ledger(base)
        for quarter in _QUARTERS:
            ensure_quarter(base, lab.description, SPEC, calendar, quarter)
    return time.perf_counter() - start


def _work(lab: Lab, weeks: "queue.SimpleQueue[FiscalWeek]") -> list[dict[str, Any]]:
    """One worker process, fed with one week after the other: no pool of Python's, whose children load all of us."""
    task = {
        "legacy_url": lab.databases.legacy_url,
        "base_url": lab.databases.base_url,
        "maintenance_work_mem_mb": MAINTENANCE_WORK_MEM_MB,
    }
    answers: list[dict[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.slice_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(task) + "\n")
        while True:
            try:
                week = weeks.get_nowait()
            except queue.Empty:
                break
            worker.stdin.write(week.key + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
            if not answer:
                raise ClientFailedError(f"the worker that copied {week.key} died; its error stands above")
            answers.append(json.loads(answer))
        worker.stdin.close()
    return answers
