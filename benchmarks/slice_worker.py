"""One worker process of the contender `slices`: reads a task and then weeks from stdin, answers each with a line."""

import json
import resource
import sys
import time

from benchmarks.lab_names import SPEC
from migration_assets.copying.copying import copy_slice
from migration_assets.copying.throttle import CopyLimits, SliceCopy
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.postgres.sessions import Databases


def main() -> None:
    task = json.loads(sys.stdin.readline())
    databases = Databases(task["legacy_url"], task["base_url"])
    limits = CopyLimits(maintenance_work_mem_mb=task["maintenance_work_mem_mb"])
    for line in sys.stdin:
        began = time.monotonic()
        copy_slice(databases, SliceCopy(SPEC, FiscalCalendar(), FiscalWeek.parse(line.strip()), limits))
        answer = {
            "week": line.strip(),
            "began": began,  # the same clock in all processes of a machine
            "seconds": time.monotonic() - began,
            "max_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
