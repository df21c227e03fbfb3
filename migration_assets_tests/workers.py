"""Which tests of a run with several workers go to the same one."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

_OF_SIGNED_QUARTERS = (
    "test_after_the_cutover",
    "test_archive_assets",
    "test_archive_commands",
    "test_catalogue",
    "test_confirmed_leaving",
    "test_connection_lost",
    "test_forks",
    "test_killed_archive",
    "test_leaving_and_coming_back",
    "test_querying",
    "test_refusals",
)
# What they share is made once in each worker, by the product's own steps, and takes seconds: a live stream with a
# process that can be killed, a quarter that is signed off, one under CDC.
_TOGETHER = (
    ("crashes/", "crashes"),
    *((f"archive/{test}.py", "signed quarters") for test in _OF_SIGNED_QUARTERS),
    ("evidence/", "signed quarters"),
    ("terminal/", "live quarters"),
    ("decommission/", "decommission"),
    ("defs/", "defs"),
    ("readiness/", "a quarter that is ready"),
    ("retirement/", "weeks that leave"),
    ("stream/test_releasing", "weeks that leave"),
)


class ByWhatTheyShare(LoadFileScheduling):
    """Whole files go to a worker, and files together whose tests share what is dear to make."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        below = file.removeprefix("migration_assets_tests/")
        return next((group for prefix, group in _TOGETHER if below.startswith(prefix)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByWhatTheyShare | None:
    """Instead of xdist's own where whole files go to a worker."""
    return ByWhatTheyShare(config, log) if config.getoption("dist") == "loadfile" else None
